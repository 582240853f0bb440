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


def test_json_and_a_comparison(runs, capsys):
    assert main(["report", str(runs), "--json", "--compare", "N=64", "N=128"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == str(runs / "report")
    assert told["headlines"][0] == "All 2 jobs finished."
    assert "## N=64 against N=128" in (runs / "report" / "report.md").read_text()


def test_multirun_is_the_default(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs.parent)
    assert main(["report"]) == 0
    assert "multirun/report/report.md" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "there is no folder nowhere"),
        (["multirun", "--compare", "N=64", "N=12"], "did you mean 'N=128'?"),
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
