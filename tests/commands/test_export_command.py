import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from rtx_lab import reopen
from rtx_lab.__main__ import main
from rtx_lab.commands import backup, export
from rtx_lab.core import checkpoint
from rtx_lab.core.rundir import RunDir, write_json
from rtx_lab.data.tokenizers import load_tokenizer
from rtx_lab.models.connection_transformer import ConnectionTransformer

SIZES = {"d_model": 16, "num_slots": 4, "bilinear_rank": 2, "max_reasoning_steps": 3, "max_seq_len": 64, "num_heads": 2}
CONFIG = {
    "model": {"_target_": "rtx_lab.models.connection_transformer.ConnectionTransformer", **SIZES},
    "dataset": {"_target_": "rtx_lab.data.generated.reasoning"},
    "budget": {"steps": 5},
    "phase": "main",
}
METRICS = {"test/accuracy": 0.8125, "test/accuracy_low": 0.79, "test/accuracy_high": 0.83, "test/n": 1536}


def make_run(root, name, *, status="done", seed=0):
    folder = root / "main" / f"{name}-0123456789ab"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "metrics.jsonl").write_text('{"step": 5, "loss": 1.0}\n')
    (folder / "predictions.jsonl").write_text('{"id": "test-0"}\n')
    write_json(folder / "result.json", {"status": status, "metrics": METRICS, "signature": "0123456789ab"})
    torch.manual_seed(seed)
    store = checkpoint.Store(folder=folder / "checkpoints")
    for step in (3, 5):
        checkpoint.save(store, {"step": step, "best": {"step": 3, "value": 0.5}}, torch.nn.Linear(2, 2))
    return RunDir(folder)


@pytest.fixture
def loaded(monkeypatch):
    tokenizer = load_tokenizer("words")
    torch.manual_seed(0)
    model = ConnectionTransformer(vocab_size=tokenizer.vocab_size, **SIZES).eval()
    made = SimpleNamespace(
        model=model, tokenizer=tokenizer, dataset_name="reasoning", max_target_length=5, config=CONFIG
    )
    monkeypatch.setattr(reopen, "load_run", lambda path: made)
    return made


def test_an_exported_folder_stands_on_its_own(loaded, tmp_path, capsys):
    run, folder = make_run(tmp_path / "multirun", "a"), tmp_path / "model"
    assert main(["export", str(run.path), str(folder)]) == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("config.yaml", "result.json", "README.md", "SHA256SUMS"),
    }
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder, check=False).returncode == 0
    again = ConnectionTransformer.from_pretrained(folder)
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), loaded.model.state_dict().values(), strict=True)
    )
    card = (folder / "README.md").read_text()
    assert "| test accuracy | 0.8125 | 0.7900 to 0.8300 |" in card
    assert "| model.num_slots | 4 |" in card
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "rtx_lab"


def test_a_run_is_exported_by_a_part_of_its_name(loaded, tmp_path, capsys):
    make_run(tmp_path / "multirun", "seed1")
    make_run(tmp_path / "multirun", "seed10")
    runs = ["--runs", str(tmp_path / "multirun")]
    assert main(["export", "seed1", str(tmp_path / "model"), *runs]) == 0
    assert "main/seed1-0123456789ab" in capsys.readouterr().err
    assert main(["export", "0123", str(tmp_path / "other"), *runs]) == 2
    assert "could be any of 2 runs" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_an_exported_tokenizer_gives_the_same_ids(loaded, tmp_path):
    export.save_tokenizer(loaded.tokenizer, tmp_path)
    again = load_tokenizer(str(tmp_path))
    text = "inn 3 right of church . where is inn from church ?"
    assert again.encode(text) == loaded.tokenizer.encode(text)
    for name in ("pad_id", "start_id", "eos_id", "vocab_size"):
        assert getattr(again, name) == getattr(loaded.tokenizer, name)


@pytest.mark.skipif(not os.environ.get("RTX_LAB_TOKENIZERS"), reason="RTX_LAB_TOKENIZERS is not set")
def test_an_exported_t5_tokenizer_gives_the_same_ids(tmp_path):
    original = load_tokenizer("google-t5/t5-base")
    export.save_tokenizer(original, tmp_path)
    again = load_tokenizer(str(tmp_path))
    assert again.encode("solve: 12 apples, 3 pears?") == original.encode("solve: 12 apples, 3 pears?")
    assert (again.pad_id, again.start_id, again.eos_id) == (original.pad_id, original.start_id, original.eos_id)


def test_an_existing_folder_is_left_alone(loaded, tmp_path, capsys):
    run, folder = make_run(tmp_path / "multirun", "a"), tmp_path / "model"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    assert main(["export", str(run.path), str(folder)]) == 2
    assert "exists" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_a_failing_export_leaves_nothing(loaded, tmp_path, monkeypatch, capsys):
    def full(folder):
        (Path(folder) / "model.safetensors").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loaded.model, "save_pretrained", full)
    run = make_run(tmp_path / "multirun", "a")
    assert main(["export", str(run.path), str(tmp_path / "out" / "model")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["run"], ["run", "dir", "--all", "x"], ["--all", "x", "--runs", "nowhere"]])
def test_wrong_arguments(arguments, capsys):
    assert main(["export", *arguments]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_backup_holds_finished_runs_with_their_best_checkpoint(tmp_path, capsys):
    runs, target = tmp_path / "multirun", tmp_path / "backup"
    make_run(runs, "a")
    make_run(runs, "b", seed=1)
    make_run(runs, "half", status="interrupted")
    assert main(["export", "--all", str(target), "--runs", str(runs)]) == 0
    assert "2 finished runs" in capsys.readouterr().out
    copy = target / "main" / "a-0123456789ab"
    assert {path.name for path in copy.iterdir()} == {
        *("config.yaml", "metrics.jsonl", "result.json", "predictions.jsonl", "checkpoints"),
    }
    assert [path.name for path in (copy / "checkpoints").iterdir()] == ["step-00000003"]  # the best, not the last
    assert checkpoint.verify(copy / "checkpoints" / "step-00000003") == []
    assert not (target / "main" / "half-0123456789ab").exists()
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=target, check=False).returncode == 0


def test_a_backup_continues_and_keeps_what_is_gone(tmp_path, capsys):
    runs, target = tmp_path / "multirun", tmp_path / "backup"
    first = make_run(runs, "a")
    make_run(runs, "b")
    arguments = ["export", "--all", str(target), "--runs", str(runs)]
    main(arguments)
    manifest = (target / "SHA256SUMS").read_text()
    (target / "main" / "b-0123456789ab" / "metrics.jsonl").unlink()  # as if it had been broken off
    capsys.readouterr()
    assert main(arguments) == 0
    assert " 1 files copied" in capsys.readouterr().out
    assert (target / "SHA256SUMS").read_text() == manifest
    first.path.rename(tmp_path / "elsewhere")
    assert main(arguments) == 0
    assert (target / "SHA256SUMS").read_text() == manifest


def test_a_differing_file_is_never_overwritten(tmp_path, capsys):
    runs, target = tmp_path / "multirun", tmp_path / "backup"
    run = make_run(runs, "a")
    arguments = ["export", "--all", str(target), "--runs", str(runs)]
    main(arguments)
    write_json(run.result_path, {"status": "done", "metrics": {}})
    make_run(runs, "b")
    before = (target / "main" / "a-0123456789ab" / "result.json").read_bytes()
    assert main(arguments) == 1
    assert "differs from the run: nothing was copied" in capsys.readouterr().err
    assert (target / "main" / "a-0123456789ab" / "result.json").read_bytes() == before
    assert not (target / "main" / "b-0123456789ab").exists()


@pytest.mark.parametrize("damaged", [["step-00000003"], ["step-00000003", "step-00000005"]])
def test_a_flipped_bit_in_the_best_checkpoint_costs_that_run_alone(damaged, tmp_path, capsys):
    runs, target = tmp_path / "multirun", tmp_path / "backup"
    make_run(runs, "a")
    run = make_run(runs, "b")
    for name in damaged:
        weights = run.checkpoints / name / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    assert main(["export", "--all", str(target), "--runs", str(runs)]) == 1
    out = capsys.readouterr()
    assert "1 finished run " in out.out
    assert "sha256 differs" in out.err
    assert (target / "main" / "a-0123456789ab" / "result.json").exists()
    assert not (target / "main" / "b-0123456789ab").exists()


def test_a_copy_that_arrives_changed_is_not_kept(tmp_path, monkeypatch, capsys):
    runs, target = tmp_path / "multirun", tmp_path / "backup"
    make_run(runs, "a")
    monkeypatch.setattr(backup.shutil, "copyfile", lambda source, copy: Path(copy).write_bytes(b"noise"))
    assert main(["export", "--all", str(target), "--runs", str(runs)]) == 1
    assert "did not arrive as it was sent" in capsys.readouterr().err
    assert [path for path in target.rglob("*") if path.is_file()] == []


def test_no_backup_into_the_runs_and_none_of_nothing(tmp_path, capsys):
    runs = tmp_path / "multirun"
    runs.mkdir()
    assert main(["export", "--all", str(runs / "backup"), "--runs", str(runs)]) == 2
    assert "is inside" in capsys.readouterr().err
    assert main(["export", "--all", str(tmp_path / "b"), "--runs", str(runs)]) == 0
    assert "no finished runs" in capsys.readouterr().out
