"""Tables as wide as there is room: where there is little, they show fewer columns instead of breaking every cell."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

PIPE_WIDTH = 120
"""Columns where neither COLUMNS nor a terminal says how many there are."""

NAME_WIDTH = 40
"""Columns that the first cell of a row keeps at least, before further ones are left away."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns. The first column may break into lines, and so may those in `prose`; the others never do."""

    title: str
    columns: tuple[str, ...]
    numbers: frozenset[str] = frozenset()
    """Columns that stand at the right."""
    prose: frozenset[str] = frozenset()
    rows: list[tuple[str, ...] | None] = field(default_factory=list)
    """None draws a line."""

    def without(self, dropped: Collection[str]) -> Table:
        """The same table with fewer columns."""
        kept = [i for i, name in enumerate(self.columns) if name not in dropped]
        rows = [row and tuple(row[i] for i in kept) for row in self.rows]
        return Table(self.title, tuple(self.columns[i] for i in kept), self.numbers, self.prose, rows)

    def drawn(self) -> Any:
        """As rich draws it."""
        from rich.table import Table as Drawn
        from rich.text import Text

        drawn = Drawn(title=Text(self.title))
        for i, name in enumerate(self.columns):
            breaks = i == 0 or name in self.prose
            side = "right" if name in self.numbers else "left"
            drawn.add_column(name, justify=side, overflow="fold" if breaks else "ellipsis", no_wrap=not breaks)
        for row in self.rows:
            if row is None:
                drawn.add_section()
            else:
                drawn.add_row(*(Text(cell) for cell in row))
        return drawn


def open_console() -> Any:
    """Standard output, as wide as COLUMNS says, else as the terminal, else PIPE_WIDTH."""
    from rich.console import Console

    known = os.environ.get("COLUMNS", "").isdigit() or any(_is_terminal(one) for one in (sys.stdout, sys.stderr))
    return Console() if known else Console(width=PIPE_WIDTH)


def _is_terminal(stream: Any) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # none, or closed
        return False


def print_line(console: Any, text: str) -> None:
    """Print what may be copied, as a command or a path: nothing but the terminal itself breaks it."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def print_note(console: Any, text: str) -> None:
    """Print a sentence, broken between words."""
    console.print(text, markup=False, highlight=False)


def fit(console: Any, table: Table, to_drop: Sequence[Collection[str]]) -> Table:
    """The table without as many of the groups of columns in `to_drop`, the first first, as it takes to fit.

    The first group goes before any cell is broken; the others stay as long as a broken first cell is readable.
    """
    forms = [table.without({name for group in to_drop[:count] for name in group}) for count in range(len(to_drop) + 1)]
    longest = max((len(row[0]) for row in table.rows if row), default=0)
    for count, form in enumerate(forms):
        spare = max(0, longest - NAME_WIDTH) if count else 0
        if _width(console, form) - spare <= console.width:
            return form
    return forms[-1]


def _width(console: Any, table: Table) -> int:
    """Columns that the table would take if it had as many as it likes."""
    return console.measure(table.drawn(), options=console.options.update(max_width=100_000)).maximum
