"""`reproduce`: the same again is bit-exact, anything else is named by its first difference, wrong input is refused."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import ROOT, TINY

from rtx_lab.__main__ import main
from rtx_lab.commands import likeness
from rtx_lab.core.rundir import RunDir, find_runs, write_json

CONFIG = "model: {d_model: 8}\nseed: %d\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One finished run of a real train.py."""
    folder = tmp_path_factory.mktemp("trained")
    command = [sys.executable, str(ROOT / "train.py"), *TINY, "budget.steps=3", "budget.eval_every=2"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (run,) = find_runs(folder)
    return run


def _contents(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).rglob("*") if path.is_file()}


def test_the_same_run_again_is_bit_exact_and_the_record_is_untouched(trained, tmp_path, capfd):
    before = _contents(trained.path)
    assert main(["reproduce", str(trained.path), "--keep", str(tmp_path / "kept")]) == 0
    assert "PASS (bit-exact)" in capfd.readouterr().out
    assert _contents(trained.path) == before
    assert RunDir(tmp_path / "kept").status() == "done"


def test_another_outcome_fails_and_names_the_first_difference(trained, tmp_path, capfd):
    copy = tmp_path / trained.path.name
    shutil.copytree(trained.path, copy)
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    lines[1]["loss"] += 1e-9
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = RunDir(copy).read_result()
    result["metrics"] |= {"test/accuracy": 2.0, "test/accuracy_low": 1.9, "test/accuracy_high": 2.1}
    write_json(copy / "result.json", result)
    assert main(["reproduce", str(copy)]) == 1
    out = capfd.readouterr().out
    assert "first difference: metrics.jsonl, step 2, loss: " in out
    assert out.splitlines()[-1].startswith("FAIL")


def test_wrong_input_is_refused_before_anything_is_trained(trained, tmp_path, capfd):
    other_data, unfinished = tmp_path / "a", tmp_path / "b"
    for folder in (other_data, unfinished):
        shutil.copytree(trained.path, folder)
    result = trained.read_result()
    write_json(other_data / "result.json", result | {"digests": result["digests"] | {"data": "0"}})
    write_json(unfinished / "result.json", result | {"status": "interrupted"})
    for words, sentence in (
        ([str(tmp_path / "nowhere")], "there is no run"),
        ([str(unfinished)], "is interrupted: only a finished run"),
        ([str(other_data)], "these inputs have changed since the run: data"),
        ([str(trained.path), "--keep", str(tmp_path)], "is not an empty folder"),
        ([str(trained.path), "--band", "nan"], "--band must be a number"),
    ):
        assert main(["reproduce", *words]) == 2
        assert sentence in capfd.readouterr().err


def _finished(root, seed, accuracy, *, width=0.1, **changes):
    folder = root / f"run-{seed}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG % seed + "".join(f"{k}: {v}\n" for k, v in changes.items()))
    metrics = {"test/accuracy": accuracy, "test/accuracy_low": accuracy - width, "test/accuracy_high": accuracy + width}
    result = {"status": "done", "monitor": "validation/accuracy", "metrics": metrics}
    write_json(folder / "result.json", result)
    return RunDir(folder), {"model": {"d_model": 8}, "seed": seed, **changes}, result


def test_three_seeds_give_the_band_of_one_more(tmp_path):
    for seed, accuracy in ((1, 0.5), (2, 0.6)):
        record = _finished(tmp_path, seed, accuracy)
    _finished(tmp_path, 9, 0.1, phase="other")
    band = likeness.seed_band(*record)
    assert (band.low, band.high) == pytest.approx((0.5, 0.7))
    assert "Wilson" in band.source
    record = _finished(tmp_path, 3, 0.7)
    band = likeness.seed_band(*record)
    half = 4.302653 * 0.1 * (1 + 1 / 3) ** 0.5  # Student's t of .975 with two degrees of freedom
    assert (band.low, band.high) == pytest.approx((0.6 - half, 0.6 + half), rel=1e-6)
    assert band.source == "3 seeds beside it"


def test_no_accuracy_and_no_seeds_is_no_band(tmp_path):
    run, config, result = _finished(tmp_path, 1, 0.5)
    assert likeness.seed_band(run, config, result | {"metrics": {"test/accuracy": 0.5}}) is None


@pytest.mark.parametrize(
    ("file", "left", "right", "words"),
    [
        ("metrics.jsonl", {"step": 1, "step_time_s": 2.0}, {"step": 1, "step_time_s": 3.0}, None),
        ("metrics.jsonl", {"step": 1, "loss": 1.0}, {"step": 1, "loss": 2.0}, "step 1, loss: 1.0 was, 2.0 is"),
        ("predictions.jsonl", {"id": "a", "steps": 1}, {"id": "a"}, "(row a), steps: 1 was, 'absent' is"),
    ],
)  # fmt: skip
def test_the_first_difference_tells_file_place_and_both_values(tmp_path, file, left, right, words):
    runs = [_finished(tmp_path / name, 1, 0.5)[0] for name in ("one", "other")]
    for run, line in zip(runs, (left, right), strict=True):
        (run.path / file).write_text(json.dumps(line) + "\n")
    found = likeness.first_difference(*runs)
    assert (found is None) == (words is None)
    assert words is None or (file in found and words in found)


def test_surroundings_name_versions_and_code():
    record = {"versions": {"torch": "2.6"}, "git": {"commit": "a" * 40, "changed": False}}
    assert likeness.surroundings(record, record) == []
    other = {"versions": {"torch": "2.7", "numpy": "2"}, "git": {"commit": "b" * 40, "changed": True}}
    assert likeness.surroundings(record, other) == [
        "torch: 2.6 was, 2.7 is",
        "numpy: none was, 2 is",
        "code: commit aaaaaaaaaaaa was, commit bbbbbbbbbbbb with changed files is",
    ]
