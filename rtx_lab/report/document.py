"""A report as plain data: what stands in it, not how it is shown."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of ready texts; `numeric` names the columns that align right and sort as numbers."""

    title: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    note: str = ""
    numeric: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A drawing: `name` is the stem of its files in `figures/` (.png and .svg)."""

    name: str
    caption: str
    alt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading with its paragraphs, tables and figures, in this order."""

    title: str
    paragraphs: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A whole report: what it says first, then the sections."""

    title: str
    headlines: list[str]
    sections: list[Section]
