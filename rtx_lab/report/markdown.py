"""A document as Markdown for reading and for pasting."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rtx_lab.report.document import Document, Section, Table


def to_markdown(document: Document) -> str:
    """Return the document as GitHub-flavoured Markdown; figures are links to `figures/<name>.png`."""
    blocks = [f"# {_escape(document.title)}"]
    if document.headlines:
        blocks.append("\n".join(f"- {_escape(line)}" for line in document.headlines))
    for section in document.sections:
        blocks += _section(section)
    return "\n\n".join(blocks) + "\n"


def _section(section: Section) -> Iterator[str]:
    yield f"## {_escape(section.title)}"
    yield from (_escape(text) for text in section.paragraphs)
    for table in section.tables:
        if table.title not in ("", section.title):
            yield f"**{_escape(table.title)}**"
        yield from _table(table)
    for figure in section.figures:
        yield f"![{_escape(figure.alt)}](figures/{figure.name}.png)"
        yield f"*{_escape(figure.caption)}*"


def _table(table: Table) -> Iterator[str]:
    rules = ("---:" if column in table.numeric else ":---" for column in table.columns)
    lines = [_row(table.columns), f"| {' | '.join(rules)} |", *(_row(row) for row in table.rows)]
    yield "\n".join(lines)
    if table.note:
        yield _escape(table.note)


def _row(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(_escape(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _escape(text: str) -> str:
    """Keep data from being read as markup: a reason may carry anything. Underscores inside words are none."""
    text = re.sub(r"([\\`*<\[\]])", r"\\\1", text)
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    return " ".join(text.split())
