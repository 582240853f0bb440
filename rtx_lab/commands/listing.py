"""Rows of runs as lines of a given width: one line a run, its name always with the whole signature.

The runs of a phase stand below a heading with what their names begin with: heading and name together are the folder.
Where the width does not suffice, numbers lose digits, then names their middle, and at last columns go.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from rtx_lab.commands.places import shared_start, signature_of
from rtx_lab.commands.row import Row, duration
from rtx_lab.report.style import shorten

Cells = Mapping[str, str]
"""What one row shows, by column; a column that is not there is empty."""

_COLUMNS = ("status", "step", "loss", "left", "best", "time")
_NUMBERS = frozenset(_COLUMNS[1:])
_FIRST_TO_GO = ("best", "loss", "time", "left", "step")
_COLOURS = {
    **{"done": "green", "running": "cyan", "interrupted": "yellow", "killed": "yellow"},
    **{"new": "dim", "waiting": "dim", "left out": "dim"},
}
_GAP = "  "
_LEAST_NAME, _LEAST_NOTE = 30, 24
"""A name and a note are cut down to this before a column goes."""
_NO_LIMIT = sys.maxsize


@dataclass(frozen=True, slots=True)
class Line:
    """A run of the table: what its name is below the heading, and its row."""

    name: str
    row: Row


@dataclass(frozen=True, slots=True)
class _Shape:
    """How wide the columns are, which are left out, and the cells of every row."""

    name: int
    widths: dict[str, int]
    outcome: int
    gone: tuple[str, ...]
    cells: list[Cells]

    @property
    def total(self) -> int:
        """The width of the longest line."""
        return self.name + sum(len(_GAP) + size for size in (*self.widths.values(), self.outcome))


def page_width() -> int | None:
    """Return the columns that may be printed: COLUMNS, else those of the terminal; None, no limit, in a pipe."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return os.get_terminal_size(sys.stdout.fileno()).columns or 80 if sys.stdout.isatty() else None


def fold(text: str, width: int | None) -> list[str]:
    """Return a sentence as lines of at most `width`; a path stays whole."""
    kept = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) if width else [text]
    return kept or [""]


def lay_out(rows: Sequence[Row], width: int | None) -> list[Text]:
    """Return the table as lines of at most `width` columns; without a limit every line names its run in full."""
    groups = _group(rows) if width else {"": [Line(f"{row.phase}/{row.folder}", row) for row in rows]}
    indent, limit = (_GAP, width) if width else ("", _NO_LIMIT)
    lines = [line for members in groups.values() for line in members]
    shape = _fit(lines, limit, len(indent))
    told = iter(shape.cells)
    page = [_print("run", {column: column for column in shape.widths} | {"outcome": _outcome_title(rows)}, shape)]
    page[0].stylize("bold")
    for heading, members in groups.items():
        page += [Text(shorten(heading, limit))] if heading else []
        shared = _shared_words(members)
        for line in members:
            name = indent + squeeze(line.name, shape.name - len(indent), shared)
            page.append(_print(name, next(told), shape))
    for text in page:
        text.truncate(limit)
    cuts = _say_cuts(shape, limit)
    return [*page, *map(Text, fold(cuts, width))] if cuts else page


def squeeze(name: str, width: int, shared: Collection[str] = ()) -> str:
    """Return a name of at most `width` with `...` for words that are left out.

    Words that all names of its group share go first, then the others from behind, the seed at last; a signature stays.
    """
    if cell_len(name) <= width:
        return name
    signature = signature_of(name)
    sign = "-" if signature else " "
    words = name.split(sign)
    places = range(len(words) - 1 - bool(signature), -1, -1)
    seed = [len(words) - 2] if signature and len(words) > 1 else []
    order = [place for place in places if words[place] in shared] + [*places][len(seed) :] + seed
    kept = set(range(len(words)))
    for place in order:
        kept.discard(place)
        text = _join(words, kept, sign)
        if cell_len(text) <= width:
            return text
    return signature or shorten(name, width)


def _join(words: Sequence[str], kept: Collection[int], sign: str) -> str:
    text, gap = "", False
    for place, word in enumerate(words):
        if place in kept:
            text += ("..." if gap else sign if text else "") + word
        gap = place not in kept
    return text + "..." * gap


def _shared_words(members: Sequence[Line]) -> frozenset[str]:
    """The words that tell none of these runs from another."""
    words = [frozenset(line.name.split("-" if line.row.signature else " ")) for line in members]
    signatures = {line.row.signature for line in members}
    return frozenset.intersection(*words) - signatures if len(words) > 1 else frozenset()


def _group(rows: Sequence[Row]) -> dict[str, list[Line]]:
    """Rows by phase and first word, in the order of the first of each; the heading is what the names begin with."""
    members: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        members.setdefault((row.phase, row.name.partition("-")[0] if row.signature else ""), []).append(row)
    groups: dict[str, list[Line]] = {}
    for (phase, word), same in members.items():
        start = shared_start([row.folder for row in same]) if word else ""
        lines = [Line(row.folder.removeprefix(start), row) for row in same]
        groups.setdefault(f"{phase}/{start}", []).extend(lines)
    return groups


def _fit(lines: Sequence[Line], limit: int, indent: int) -> _Shape:
    """Return the roomiest shape that the width holds; the narrowest there is where none does."""
    whole = _measure(lines, 4, indent)
    shape = _shrink(whole, limit, whole.name, max(_longest_accuracy(lines, 4), _LEAST_NOTE))
    if shape.total <= limit:
        return shape
    brief, kept = _measure(lines, 3, indent), _longest_accuracy(lines, 3)
    cuts = [(brief.name, 0), *((min(brief.name, _LEAST_NAME), count) for count in range(len(_FIRST_TO_GO) + 1))]
    for least_name, count in cuts:
        shape = _shrink(_leave_out(brief, _FIRST_TO_GO[:count]), limit, least_name, max(kept, _LEAST_NOTE))
        if shape.total <= limit:
            return shape
    signed = max((len(line.row.signature) for line in lines), default=0) + indent
    return _shrink(_shrink(shape, limit, signed, kept), limit, signed, 0)


def _measure(lines: Sequence[Line], digits: int, indent: int) -> _Shape:
    """Return the shape in which nothing is cut."""
    cells = [_cells(line.row, digits) for line in lines]
    shown = [column for column in _COLUMNS if any(column in row for row in cells)]
    widths = {column: max(len(column), *(cell_len(row.get(column, "")) for row in cells)) for column in shown}
    name = max((cell_len(line.name) for line in lines), default=0) + indent
    outcomes = [_outcome_title(line.row for line in lines), *(row.get("outcome", "") for row in cells)]
    return _Shape(name, widths, max(map(cell_len, outcomes)), (), cells)


def _leave_out(shape: _Shape, columns: Sequence[str]) -> _Shape:
    kept = {column: size for column, size in shape.widths.items() if column not in columns}
    return replace(shape, widths=kept, gone=tuple(column for column in columns if column in shape.widths))


def _longest_accuracy(lines: Sequence[Line], digits: int) -> int:
    return max((len(accuracy_text(line.row, digits)) for line in lines), default=0)


def _shrink(shape: _Shape, limit: int, least_name: int, least_outcome: int) -> _Shape:
    """Cut notes, then names, as far as it takes and as far as they may be cut."""
    outcome = max(min(least_outcome, shape.outcome), shape.outcome - max(0, shape.total - limit))
    shape = replace(shape, outcome=outcome)
    return replace(shape, name=max(least_name, shape.name - max(0, shape.total - limit)))


def _cells(row: Row, digits: int) -> Cells:
    """What a row shows with so many decimals; below four the step of the best is left out."""
    cells: dict[str, Any] = {
        "status": row.status,
        "step": step_text(row),
        "loss": None if row.loss is None else f"{row.loss:.{digits}f}",
        "left": None if row.eta_s is None else duration(row.eta_s),
        "best": None if row.best is None else f"{row.best:.{digits}f}" + (f" @ {row.best_step}" if digits > 3 else ""),
        "time": None if row.time_s is None else duration(row.time_s),
        "outcome": "; ".join(part for part in (accuracy_text(row, digits), row.note) if part),
    }
    return {column: text for column, text in cells.items() if text}


def step_text(row: Row) -> str:
    """Return `120/400`, the total or the step alone where the other is not known, or an empty text."""
    if row.step is None:
        return f"-/{row.total_steps}" if row.total_steps else ""
    return f"{row.step}/{row.total_steps}" if row.total_steps else str(row.step)


def accuracy_text(row: Row, digits: int = 4) -> str:
    """Return the test accuracy with its interval, an empty text where there is none."""
    if row.accuracy is None:
        return ""
    if row.accuracy_low is None or row.accuracy_high is None:
        return f"{row.accuracy:.{digits}f}"
    return f"{row.accuracy:.{digits}f} [{row.accuracy_low:.{digits}f}, {row.accuracy_high:.{digits}f}]"


def _outcome_title(rows: Iterable[Row]) -> str:
    """The heading of the column that holds what came out: the accuracy, or why there is none."""
    kinds = {kind for row in rows for kind in (["accuracy"] * (row.accuracy is not None) + ["note"] * bool(row.note))}
    return "test accuracy" if kinds == {"accuracy"} else " or ".join(sorted(kinds))


def _print(name: str, cells: Cells, shape: _Shape) -> Text:
    line = Text(set_cell_size(name, shape.name))
    for column, size in shape.widths.items():
        text = cells.get(column, "-" if column in _NUMBERS else "")
        space = " " * (size - cell_len(text))
        if column in _NUMBERS:
            line.append(_GAP + space + text)
        else:
            line.append(_GAP).append(text, style=_COLOURS.get(text, "" if text == column else "red")).append(space)
    outcome = cells.get("outcome", "")
    if cell_len(outcome) > shape.outcome:
        outcome = set_cell_size(outcome, max(0, shape.outcome - 3)).rstrip() + "..."[: shape.outcome]
    line.append(_GAP + outcome)
    line.rstrip()
    return line


def _say_cuts(shape: _Shape, limit: int) -> str:
    """What a reader of a narrow table does not see; empty where all is there."""
    parts = [f"without {', '.join(shape.gone)}"] if shape.gone else []
    parts += ["notes cut"] * any(cell_len(row.get("outcome", "")) > shape.outcome for row in shape.cells)
    return f"({limit} columns: {'; '.join(parts)}; --json has all)" if parts else ""
