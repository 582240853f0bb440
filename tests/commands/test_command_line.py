import subprocess
import sys

import pytest

from rtx_lab import __main__ as door
from rtx_lab.commands import status
from rtx_lab.core.errors import RunError, UsageError


def test_help_lists_every_command(capsys):
    assert door.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in door.COMMANDS)
    assert door.main([]) == 2


@pytest.mark.parametrize("command", list(door.COMMANDS))
def test_every_command_explains_itself(command, capsys):
    assert door.main([command, "--help"]) == 0
    assert f"python -m rtx_lab {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["statsu"], "did you mean `python -m rtx_lab status`?"),
        (["zzz"], "there are infer, export, doctor, status"),
        (["status", "--jsn"], "did you mean --json?"),
        (["status", "a", "b"], "one word too many"),
        (["status", "--zzzzzz"], "there is no option --zzzzzz"),
        (["doctor", "--hardwear=cpu"], "did you mean --hardware?"),
    ],
)
def test_mistyped_words_are_usage_errors(arguments, text, capsys):
    assert door.main(arguments) == 2
    error = capsys.readouterr().err
    assert text in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UsageError("one", "two"), 2, "error: one\nerror: two\n"),
        (RunError("broken"), 1, "error: broken\n"),
        (KeyboardInterrupt(), 130, "error: stopped\n"),
        (ValueError("odd\nthing"), 1, "error: unexpected ValueError: odd thing (RTX_LAB_DEBUG=1 shows where)\n"),
    ],
)
def test_errors_are_sentences_with_their_exit_code(error, code, text, monkeypatch, capsys):
    def fail(args):
        raise error

    monkeypatch.setattr(status, "main", fail)
    assert door.main(["status"]) == code
    assert capsys.readouterr().err == text


def test_debugging_shows_the_unexpected(monkeypatch):
    def fail(args):
        raise ZeroDivisionError

    monkeypatch.setattr(status, "main", fail)
    monkeypatch.setenv("RTX_LAB_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        door.main(["status"])


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from rtx_lab.__main__ import main; main(['--help']); "
        "sys.exit(bool({'torch', 'hydra', 'rich', 'yaml', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_a_closed_pipe_is_no_error(tmp_path):
    command = f"{sys.executable} -m rtx_lab status --help | head -c 1"
    result = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr
