"""The table of `status`: one line a run at any width, and every name in it names its run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from written_runs import answers, write_run

from rtx_lab.commands.listing import fold, lay_out, page_width, squeeze
from rtx_lab.commands.places import match_folders
from rtx_lab.commands.row import Row
from rtx_lab.commands.status import list_rows
from rtx_lab.core.rundir import write_json

DATASETS = ("logiqa", "gsm8k", "strategyqa")
REASON = "the step of 64 needs 31.2 GiB of 24 at micro-batch 1"
BASELINE = {"_target_": "rtx_lab.models.transformer_baseline.TransformerBaseline", "d_model": 256, "num_layers": 5}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Runs as phase=connection_study names them: long names, several phases, jobs that failed and jobs left out."""
    root = tmp_path_factory.mktemp("study") / "multirun"
    right, lost = answers(5, 8), {"status": "out_of_memory", "reason": REASON}
    for name in DATASETS:
        dataset = {"_target_": f"rtx_lab.data.corpora.{name}"}
        for slots in (64, 128, 512):
            write_run(root, right, phase="nd_ratio", dataset=dataset, model__num_slots=slots)
        write_run(root, right, phase="nd_ratio", dataset=dataset, model__connection="dense", result=lost)
        write_run(root, right, phase="baselines", dataset=dataset, model=BASELINE)
        for seed in (0, 1, 10):
            write_run(root, right, phase="dynamic", dataset=dataset, seed=seed, model__convergence_threshold=0.1)
    planned = "rank/connection_transformer-diag-n128-d256-r64-commonsenseqa-seed0-30fe819ab836"
    refused = {"job": "rank: model.connection=dense 자료=논리 seed=0", "class": "left out", "reason": "does not fit"}
    (root / "connection_study").mkdir()
    write_json(root / "connection_study" / "study.json", {"jobs": [planned], "not_run": [refused]})
    return root


def shown(root, columns):
    """What the command prints into a pipe."""
    given = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-m", "rtx_lab", "status", str(root)]
    environment = given | ({"COLUMNS": str(columns)} if columns else {})
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("columns", [80, 100])
def test_one_line_a_run_and_never_wider_than_columns(study, columns):
    lines = shown(study, columns).splitlines()
    assert max(map(cell_len, lines)) <= columns
    rows = list_rows(study)
    signed = [row for row in rows if row.signature]
    assert len(signed) == 25
    for row in signed:
        (line,) = (line for line in lines if row.signature in line)
        assert row.status in line.split()
        assert row.accuracy is None or f"{row.accuracy:.3f}" in line
    headings = [line for line in lines if line and not line.startswith(" ")]
    assert "nd_ratio/connection_transformer-" in headings
    assert not any("connection_transformer-" in line for line in lines if line.startswith(" ")), "stated once"


def test_a_pipe_without_columns_gets_every_name_in_full(study):
    text = shown(study, None)
    for row in list_rows(study):
        assert f"{row.phase}/{row.folder}  " in text
    assert REASON in text


@pytest.mark.parametrize("width", [*range(24, 180, 6), 80, 100])
def test_whatever_the_width_a_printed_name_names_its_run(study, width):
    rows = list_rows(study)
    folders = [Path(row.path) for row in rows if row.signature]
    page = [text.plain for text in lay_out(rows, width)]
    assert max(map(cell_len, page)) <= width
    found, phase = [], ""
    for line in page[1:]:
        if not line.startswith(" "):
            phase = line.partition("/")[0]
            continue
        name = line[2:].partition("  ")[0].rstrip()
        if name[-12:].isalnum() and "=" not in name:
            (run,) = match_folders(name, folders, study)
            assert match_folders(f"{phase}/{name}", folders, study) == [run] or "..." in phase
            found.append(run)
    assert sorted(found) == sorted(folders)


def row(**changes):
    given = {"path": "m/p/a-0123456789ab", "phase": "p", "name": "a", "signature": "0123456789ab", "status": "done"}
    return Row(**given | changes)


def texts(rows, width=80):
    return [line.plain for line in lay_out(rows, width)]


def test_columns_that_are_empty_for_all_rows_are_not_there():
    assert texts([row()])[0].split() == ["run", "status"]
    assert texts([row(), row(loss=1.5, status="running", step=3)])[0].split() == ["run", "status", "step", "loss"]
    assert texts([row(accuracy=0.5)])[0].split() == ["run", "status", "test", "accuracy"]
    assert texts([row(accuracy=0.5), row(note="x")])[0].split() == ["run", "status", "accuracy", "or", "note"]


def test_what_goes_at_a_small_width_is_said():
    full = row(accuracy=0.5, accuracy_low=0.4, accuracy_high=0.6, best=0.5, best_step=300, time_s=4000.0, loss=1.0)
    assert "0.5000 [0.4000, 0.6000]" in texts([full], 100)[2]
    assert "0.5000 @ 300" in texts([full], 100)[2]
    assert "0.500  1 h 6 min  0.500 [0.400, 0.600]" in texts([full], 80)[2]
    long = row(name="-".join(f"word{number}" for number in range(9)), note="because " * 20, best=0.5, step=4)
    page = texts([full, long], 60)
    assert " ".join(page[-2:]) == "(60 columns: without best, loss, time; notes cut; --json has all)"
    assert next(line for line in page if "because" in line).endswith("...")


def test_a_name_loses_shared_words_first_and_its_signature_never():
    name = "diag-n128-d256-r32-gsm8k-seed10-30fe819ab836"
    shared = {"d256", "r32"}
    assert squeeze(name, 44, shared) == name
    assert squeeze(name, 43, shared) == "diag-n128-d256...gsm8k-seed10-30fe819ab836"
    assert squeeze(name, 38, shared) == "diag-n128...gsm8k-seed10-30fe819ab836"
    assert squeeze(name, 32, shared) == "diag-n128...seed10-30fe819ab836"
    assert squeeze(name, 22, shared) == "...seed10-30fe819ab836"
    assert squeeze(name, 15, shared) == "...30fe819ab836"
    assert squeeze(name, 14, shared) == squeeze(name, 3, shared) == "30fe819ab836"
    assert squeeze("model=a connection=dense seed=0", 20, {"connection=dense"}) == "model=a...seed=0"


def test_the_width_is_that_of_columns(monkeypatch):
    for given, width in (("72", 72), ("0", None), ("wide", None), ("", None)):
        monkeypatch.setenv("COLUMNS", given)
        assert page_width() == width


def test_a_sentence_is_folded_between_words():
    assert fold("", 10) == [""]
    assert fold("one two-three four", 9) == ["one", "two-three", "four"]
    assert fold("one two", None) == ["one two"]
