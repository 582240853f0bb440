"""`python train.py` as a user types it: what is refused, in one sentence each, and what is left on the disk."""

import json
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_runs import ROOT, TINY

from rtx_lab.core.rundir import find_runs, write_json
from rtx_lab.sweep.door import enter


def _nothing_written(folder):
    return list(Path(folder).iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model.num_slot=64"], "did you mean `model.num_slots`?"),
        (["model=bilinear_tny"], "did you mean `model=bilinear_tiny`?"),
        (["datset=gsm8k"], "did you mean `dataset`?"),
        (["learning_rate=3e-4"], "here it is `optim.lr`"),
        (["per_device_train_batch_size=8"], "here it is `budget.micro_batch`"),
        (["optim.learning_rate=3e-4"], "did you mean `optim.lr`?"),
        (["model.num_slots=-4"], "model.num_slots must be a positive integer, got -4"),
        (["model.num_slots=abc"], "model.num_slots must be an integer, got 'abc'"),
        (["optim.lr=inf"], "optim.lr must be a positive finite number, got inf"),
        (["optim.lr=nan"], "optim.lr must be a positive finite number, got nan"),
        (["budget.micro_batch=24"], "use 16 or 32"),
        (["budget.steps=abc"], "budget.steps"),
        (["+foo=1"], "unknown key `foo`"),
        (["+seed=3"], "adds a key that is there already: write seed=3"),
        (["+hydra.foo=1"], "unknown key `hydra.foo`"),
        (["-m", "+hydra.job.nam=x", "seed=1,2"], "did you mean `hydra.job.name`?"),
        (["hydra/launcher=jobib"], "did you mean `hydra/launcher=joblib`?"),
        (["7seed=3"], "unknown key `7seed`: did you mean `seed`?"),
        (["x" * 5000 + "=1"], "unknown key `xxx"),
        (["seed=" + "9" * 5000], "cannot read `seed=999"),
        (["-m", "seed=range(0,1,0)"], "cannot read `seed=range(0,1,0)`"),
        (["nonsense"], "`nonsense` is not an override"),
        (["=3"], "`=3` is not an override"),
        (["model=null"], "model has no option `None`: choose one of"),
        (["~dataset", "dataset.num_train=4"], "`~dataset` removes what every run needs"),
        (["~model.num_slots"], "model.num_slots is missing"),
        (["model.num_slots=4,8"], "add -m"),
        (["seed=-1"], "seed must be 0 to"),
        (["hardware.num_threads=100000"], "hardware.num_threads must be 1 to 1024"),
        (["model.num_slots=[64"], "cannot read `model.num_slots=[64`"),
        (["~model"], "removes what every run needs: choose an option, as model=NAME"),
        (
            ["model.connection=denze"],
            "must be one of dense, core, diag, scalar, linear, got 'denze': did you mean dense?",
        ),
        (["model.vocab_size=7"], "model.vocab_size=7 does not cover the 116 entries"),
        (["init_from=/nowhere"], "/nowhere holds no checkpoint"),
        (["dataset.num_train=0"], "dataset.num_train must be at least 1"),
        (["-m", "phase=main,smoke"], "sweep one phase at a time"),
        (["-m", "model.num_slots=64,-2,abc"], "got -2"),
        (["seed=1", "-m", "model.num_slots=64,-2"], "got -2"),
        (["-m", "optim.lr=1e-3,inf", "model.num_slots=8,x"], "got 'x'"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(command, tmp_path, arguments, words):
    code, text = command(*arguments)
    assert code == 2, text
    assert words in text
    assert "Traceback" not in text
    assert _nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("launcher", "module", "extra"), [("ray", "ray", "ray"), ("submitit_slurm", "submitit", "slurm")]
)
def test_a_launcher_that_is_not_installed_is_told_with_what_brings_it(command, launcher, module, extra):
    if find_spec(module) is not None:
        pytest.skip(f"{module} is installed")
    for arguments in (["-m", "seed=1,2"], []):
        code, text = command(*arguments, f"hydra/launcher={launcher}")
        assert code == 2
        assert text == f'error: hydra/launcher={launcher} is not installed: pip install -e ".[{extra}]"\n'


def test_several_mistakes_are_named_together(command):
    code, text = command("model.num_slots=-4", "optim.lr=inf", "budget.micro_batch=24", "hardware.num_threads=0")
    assert code == 2
    assert text.count("error: ") == 4
    code, text = command("model.num_slot=64", "budget.stps=3", "model=bilinear_tny")
    assert code == 2
    assert text.count("did you mean") == 3


def test_a_gpu_preset_without_a_gpu_is_refused_and_can_be_planned(command, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    code, text = command("hardware=rtx4090")
    assert code == 2
    assert "needs an NVIDIA GPU" in text
    code, text = command(
        "hardware=rtx4090", "plan=true", "model=bilinear_large", "dataset=gsm8k", "model.connection=dense"
    )
    assert code == 0
    assert "4,3" in text, "the dense large model has 4.3 billion parameters"
    assert _nothing_written(tmp_path)


def test_looking_leaves_nothing(command, tmp_path):
    for arguments in (
        ["--help"],
        ["--cfg", "job", "--resolve"],
        ["--info", "defaults"],
        ["plan=true"],
        ["-m", "plan=true", "seed=1,2"],
    ):
        code, text = command(*arguments)
        assert code in (0, None), text
        assert _nothing_written(tmp_path), arguments


def test_a_changed_input_is_refused_not_skipped(command, tmp_path):
    assert command(*TINY, "budget.steps=1")[0] == 0
    (run,) = find_runs(tmp_path / "multirun")
    result = run.read_result()
    result["digests"]["data"] = "0" * 64
    run.result_path.write_text(json.dumps(result))
    code, text = command(*TINY, "budget.steps=1")
    assert code == 2
    assert "these inputs have changed since: data" in text


def test_weights_of_another_model_are_refused_before_anything_is_written(command, tmp_path):
    assert command(*TINY, "budget.steps=1")[0] == 0
    (run,) = find_runs(tmp_path / "multirun")
    code, text = command(*TINY, "budget.steps=1", "model.d_model=32", f"init_from={run.path}")
    assert code == 2
    assert "belongs to another model" in text
    assert find_runs(tmp_path / "multirun") == [run]


def test_a_parent_is_one_experiment_however_it_is_spelled_and_refused_once_it_changed(command, tmp_path):
    assert command(*TINY, "budget.steps=1")[0] == 0
    (parent,) = find_runs(tmp_path / "multirun")
    child = (*TINY, "budget.steps=1", "seed=7")
    assert command(*child, f"init_from={parent.path}")[0] == 0
    code, text = command(*child, f"init_from={parent.path.relative_to(tmp_path)}")
    assert code == 0
    assert "already done" in text
    shutil.rmtree(parent.checkpoints)
    donor = next(run for run in find_runs(tmp_path / "multirun") if run.path != parent.path)
    shutil.copytree(donor.checkpoints, parent.checkpoints)
    code, text = command(*child, f"init_from={parent.path}")
    assert code == 2
    assert "these inputs have changed since: init_from" in text


def test_a_broken_line_is_named_and_leaves_nothing(command, tmp_path, monkeypatch):
    data = tmp_path / "data" / "strategy_qa"
    data.mkdir(parents=True)
    line = json.dumps({"qid": "a", "question": "Is it so?", "answer": True})
    for name in ("train90", "dev10"):
        (data / f"{name}.jsonl").write_text(f"{line}\n{line}\n{{broken\n")
    monkeypatch.setenv("RTX_LAB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("RTX_LAB_TOKENIZERS", str(_words_as_t5(tmp_path)))
    code, text = command("dataset=strategyqa", "dataset.rows={train90: 3, dev10: 3}", "hardware=cpu")
    assert code == 1, text
    assert "train90.jsonl:3" in text
    assert not (tmp_path / "multirun").exists()


def _words_as_t5(folder):
    """The shipped vocabulary under the name of T5's: a tokenizer that needs no network."""
    place = folder / "tokenizers" / "t5"
    place.mkdir(parents=True)
    shutil.copy(ROOT / "rtx_lab" / "data" / "assets" / "words" / "tokenizer.json", place)
    write_json(place / "tokenizer_config.json", {"pad_token": "<pad>", "eos_token": "</s>"})
    return place.parent


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 0)])
def test_a_signal_outside_a_run_ends_with_its_exit_code(signum, code):
    with pytest.raises(SystemExit) as end:
        enter(lambda: signal.raise_signal(signum))
    assert end.value.code == code


def test_what_the_disk_refuses_is_one_sentence(capsys):
    def refuse():
        raise OSError(30, "Read-only file system", "multirun")

    assert enter(refuse) == 1
    assert capsys.readouterr().err == (
        "error: cannot use multirun: Read-only file system; free space or change its permissions\n"
    )


def test_help_imports_nothing_heavy():
    code = (
        "import sys, runpy; sys.argv = ['train.py', '--help']\n"
        "try: runpy.run_path('train.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'transformers', 'datasets', 'pandas', 'rich', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
