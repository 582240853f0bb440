import json
import subprocess
import sys

import pytest
from written_runs import answers, write_run

from rtx_lab.__main__ import main


@pytest.fixture
def runs(tmp_path):
    root = tmp_path / "multirun"
    write_run(root, answers(60), model__num_slots=64)
    write_run(root, answers(100), model__num_slots=128, validation=0.8)
    return root


def test_it_prints_the_headlines_and_where_they_stand(runs, capsys):
    assert main(["report", str(runs)]) == 0
    shown = capsys.readouterr().out
    assert "All 2 jobs finished." in shown
    assert "accuracy with 128 is 0.333 higher than with 64" in shown
    assert str(runs / "report" / "report.html") in shown
    assert (runs / "report" / "report.html").is_file()


def test_json(runs, capsys):
    assert main(["report", str(runs), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == str(runs / "report")
    assert told["headlines"][0] == "All 2 jobs finished."


def test_a_comparison_is_told_and_stands_in_a_file_of_its_own(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs.parent)
    first, second = sorted(path.name for path in (runs / "study").iterdir())  # n128, n64
    ways = [
        ("N=64", "N=128"),
        ("n64", "n128"),
        (f"study/{second}", f"multirun/study/{first}"),
        (second[-12:], first[-12:-6]),
        (f"...seed0-{second[-12:]}", str(runs / "study" / first)),
    ]
    told = set()
    for left, right in ways:
        assert main(["report", "--compare", left, right]) == 0
        told.add(capsys.readouterr().out)
    (text,) = told
    lines = text.splitlines()
    assert lines[0] == f"A: N=64 (study/{second})"
    assert lines[3].startswith("- Accuracy is 0.333 higher for B than for A (A 0.500, B 0.833; B - A = +0.333, 95 %")
    path = runs / "report" / f"compare-{second[-12:]}-{first[-12:]}.md"
    assert lines[-1] == f"in full: multirun/report/{path.name}"
    assert [entry.name for entry in (runs / "report").iterdir()] == [path.name], "the ordinary report is another thing"
    assert path.read_text().startswith("# N=64 against N=128\n\n- A and B differ in model.num_slots (64 against 128).")


def test_a_comparison_as_json_and_within_the_width(runs, monkeypatch, capsys):
    assert main(["report", str(runs), "--json", "--compare", "N=64", "N=128"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["file"].startswith(str(runs / "report" / "compare-"))
    assert told["comparisons"][0]["metric"] == "accuracy"
    assert told["comparisons"][0]["difference"] == pytest.approx(1 / 3)
    assert told["comparisons"][0]["shown"] is True
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(runs.parent)
    assert main(["report", "--compare", "N=64", "N=128"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_a_run_elsewhere_is_a_side_too(runs, tmp_path, capsys):
    other = write_run(tmp_path / "old", answers(60), model__num_slots=512)
    assert main(["report", str(runs), "--compare", "N=64", str(other.path)]) == 0
    assert "No difference in accuracy can be shown" in capsys.readouterr().out


def test_multirun_is_the_default(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs.parent)
    assert main(["report"]) == 0
    assert "multirun/report/report.md" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "there is no folder nowhere"),
        (["multirun", "--compare", "N=64", "N=12"], "did you mean 'N=128'?"),
        (["multirun", "--compare", "N=64", "N=64"], "stands on both sides: name two that differ"),
        (["multirun", "--compare", "N=64", "n64"], "stands on both sides: name two that differ"),
        (["multirun", "--compare", "seed0", "N=64"], "'seed0' could be any of 2 runs or settings below multirun: "),
        (["multirun", "--compare", "", "N=64"], "the name of a run or setting is empty"),
        (["empty"], "there are no runs at or below empty"),
        (["multirun", "--compar", "a", "b"], "there is no option --compar: did you mean --compare?"),
    ],
)
def test_wrong_input_is_one_sentence(runs, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(runs.parent)
    (runs.parent / "empty").mkdir()
    assert main(["report", *arguments]) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert "Traceback" not in told


def test_a_report_needs_neither_torch_nor_hydra(runs):
    code = (
        f"import sys; from rtx_lab.__main__ import main; main(['report', {str(runs)!r}]); "
        "sys.exit(bool({'torch', 'hydra', 'omegaconf'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
