"""Tables in terminals and pipes of any width: fewer columns before broken cells."""

import pytest

from rtx_lab.sweep.tables import PIPE_WIDTH, Table, fit, open_console

NAME = "model.num_slots=64 (4to1_compression) dataset=gsm8k rows=[a,b]"
TABLE = Table(
    "A table",
    ("job", "now", "weights", "peak", "disk"),
    numbers=frozenset({"weights", "peak", "disk"}),
    rows=[(NAME, "to run", "1" * 12, "2" * 12, "3" * 12), None, ("x", "", "", "", "")],
)
DROP = ({"weights"}, {"disk"})


def _shown(monkeypatch, capsys, width):
    monkeypatch.setenv("COLUMNS", str(width))
    console = open_console()
    assert console.width == width
    table = fit(console, TABLE, DROP)
    console.print(table.drawn())
    return table.columns, capsys.readouterr().out


@pytest.mark.parametrize(
    ("width", "columns", "whole"),
    [
        (130, ("job", "now", "weights", "peak", "disk"), True),
        (106, ("job", "now", "peak", "disk"), True),
        (86, ("job", "now", "peak", "disk"), False),
        (70, ("job", "now", "peak"), False),
    ],
)
def test_columns_go_before_cells_break(monkeypatch, capsys, width, columns, whole):
    shown, text = _shown(monkeypatch, capsys, width)
    assert shown == columns
    assert (NAME in text) is whole
    assert max(map(len, text.splitlines())) <= width
    assert "2" * 12 in text, "a number is never broken"


def test_what_looks_like_markup_is_text(monkeypatch, capsys):
    assert "[a,b]" in _shown(monkeypatch, capsys, 150)[1]


def test_a_pipe_without_columns_has_a_width_of_its_own(monkeypatch, capsys):
    for said in (None, "", "wide"):
        monkeypatch.delenv("COLUMNS", raising=False)
        if said is not None:
            monkeypatch.setenv("COLUMNS", said)
        assert open_console().width == PIPE_WIDTH
