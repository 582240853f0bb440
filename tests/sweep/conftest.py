"""The command line as a user types it, in this process."""

import logging
import runpy
import sys

import pytest
from tiny_runs import ROOT


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    """Run train.py in an empty folder; return exit code and what was printed."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py"), *arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        for handler in filter(lambda one: isinstance(one, logging.FileHandler), logging.getLogger().handlers):
            handler.close()  # not logging.shutdown(): absl, which rouge_score imports, would close our stderr
        out, err = capfd.readouterr()
        return end.value.code, out + err

    return call


@pytest.fixture
def no_report(request, monkeypatch):
    """The report at the end of every command has tests of its own, and takes longer than small studies: slow tests
    write it."""
    if "slow" not in request.keywords:
        monkeypatch.setattr("rtx_lab.report.build.write_report", lambda folder: folder / "report")
