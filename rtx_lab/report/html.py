"""A report as one HTML file: style, script and drawings stand in it, and a policy forbids every request."""

from __future__ import annotations

import re
from base64 import b64encode
from html import escape
from importlib.resources import files
from pathlib import Path

from rtx_lab.report.document import Document, Figure, Section, Table
from rtx_lab.report.fonts import CSS, font_face
from rtx_lab.report.style import IN_THE_DARK

_POLICY = "default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

_SIZE = re.compile(r'<svg\b[^>]*?\bviewBox="0 0 ([\d.]+) ([\d.]+)"')


def render(document: Document, folder: Path) -> str:
    """Return the page of a document whose drawings lie in `folder`/figures; a drawing that is not there is named.

    The page needs no script but for sorting and asks nothing of the network.
    """
    numbered = list(enumerate(document.sections, start=1))
    links = "\n".join(f'<a href="#part-{number}">{escape(section.title)}</a>' for number, section in numbered)
    sections = "\n".join(_section(section, number, folder) for number, section in numbered)
    headlines = "\n".join(f"<li>{_inline(headline)}</li>" for headline in document.headlines)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(document.title)}</title>
<style>
{font_face(document.title + headlines + links + sections)}{_resource("page.css").replace("FONT_STACK", CSS)}</style>
</head>
<body>
<header>
<h1>{escape(document.title)}</h1>
<ul class="headlines">
{headlines}
</ul>
<nav aria-label="Sections">
{links}
</nav>
</header>
<main>
{sections}
</main>
<script>
{_resource("page.js")}</script>
</body>
</html>
"""


def _resource(name: str) -> str:
    return files("rtx_lab.report").joinpath(name).read_text(encoding="utf-8")


def _section(section: Section, number: int, folder: Path) -> str:
    parts = [f'<section id="part-{number}">', f"<h2>{escape(section.title)}</h2>"]
    parts += [f"<p>{_inline(paragraph)}</p>" for paragraph in section.paragraphs]
    parts += [_table(table, section.title) for table in section.tables]
    if section.figures:
        parts += ['<div class="figures">', *(_figure(figure, folder) for figure in section.figures), "</div>"]
    return "\n".join([*parts, "</section>"])


def _table(table: Table, heading: str) -> str:
    kinds = [' class="num"' if column in table.numeric else "" for column in table.columns]
    head = "".join(
        f'<th scope="col"{kind}>{_inline(text)}</th>' for kind, text in zip(kinds, table.columns, strict=True)
    )
    body = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{_inline(text)}</td>" for kind, text in zip(kinds, row, strict=True)) + "</tr>"
        for row in table.rows
    )
    title = f"<h3>{escape(table.title)}</h3>\n" if table.title not in ("", heading) else ""
    note = f'\n<p class="note">{_inline(table.note)}</p>' if table.note else ""
    name = escape(table.title or "table")
    return (
        f'<div class="block">\n{title}<div class="scroll" role="region" tabindex="0" aria-label="{name}">\n'
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>{note}\n</div>"
    )


def _figure(figure: Figure, folder: Path) -> str:
    path = folder / "figures" / f"{figure.name}.svg"
    caption = f"<figcaption>{_inline(figure.caption)}</figcaption>"
    try:
        drawn = path.read_bytes()
    except OSError:
        return f"<figure><p>No drawing {escape(figure.name)}: {escape(figure.alt)}</p>{caption}</figure>"
    size = _SIZE.search(drawn[:2000].decode("utf-8", errors="replace"))
    shape = f' width="{float(size[1]):.0f}" height="{float(size[2]):.0f}"' if size else ""
    source = f"data:image/svg+xml;base64,{b64encode(_with_dark_colours(drawn)).decode()}"
    return f'<figure>\n<img src="{source}" alt="{escape(figure.alt)}"{shape}>\n{caption}\n</figure>'


def _with_dark_colours(drawn: bytes) -> bytes:
    """Add the rules by which a drawing follows the reader's dark scheme; pixels of a map keep their meaning."""
    rules = "".join(
        f'[style*="{part}: {light}"]{{{part}:{dark}!important}}'
        for light, dark in IN_THE_DARK.items()
        for part in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    return re.sub(rb"(<svg\b[^>]*>)", rb"\1" + style.encode(), drawn, count=1)


def _inline(text: str) -> str:
    """Escaped text in which words between backticks are code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
