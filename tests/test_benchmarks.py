"""Every benchmark can be started: it explains itself, and the quick ones run."""

import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py"))
QUICK = ("accumulation", "beam_evaluation", "bucketing", "pair_maps", "scan_runs", "summarise_epoch", "wilson_coverage")
"""Those whose --quick (or whole run on built-in data) is a matter of a second or two; ten where Trainer is loaded."""


@pytest.fixture
def start(monkeypatch, capsys, tmp_path):
    """Run a benchmark as a script in this process and return what it printed."""
    monkeypatch.setenv("RTX_LAB_CACHE", str(tmp_path))
    monkeypatch.delenv("RTX_LAB_DATA", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_benchmark_explains_itself(start, capsys, name):
    with pytest.raises(SystemExit) as end:
        start(name, "--help")
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out
    assert "torch " in (BENCHMARKS / f"{name}.py").read_text() or name == "bucketing", "a table names its machine"


@pytest.mark.parametrize("name", QUICK)
def test_the_quick_ones_run(start, name):
    arguments = [] if name == "bucketing" else ["--quick"]
    assert "cores" in (shown := start(name, *arguments)) or "threads" in shown
    assert "NOT reached" not in shown
