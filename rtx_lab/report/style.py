"""How figures look and how they reach the disk: one line cycle, one paper size, files that are equal when made again.

Nothing here touches pyplot or leaves a setting behind: figures are plain objects and settings hold inside `drawing`.
"""

from __future__ import annotations

import io
import logging
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

from rtx_lab.core.errors import RunError
from rtx_lab.report import fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Sheet

WIDTH_IN, HEIGHT_IN = 4.8, 3.3
"""Narrow enough that 10 pt text is still read when a phone shows the figure 330 pixels wide."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#111111", "#56B4E9", "#E69F00")
"""Okabe and Ito's palette without yellow, which is lost on white."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.5, 1.5)))
INK, FAINT, EDGE, GRID = "#222222", "#b5b5b5", "#555555", "#e4e4e4"

IN_THE_DARK = {
    "#ffffff": "#1b1f23",
    INK: "#dfe2e5",
    EDGE: "#8b949c",
    GRID: "#30363c",
    FAINT: "#566069",
    "#111111": "#f4f4f4",
    "#0072b2": "#3f9fe6",
    "#d55e00": "#f0813a",
    "#009e73": "#2cc299",
    "#cc79a7": "#e39cc4",
    "#56b4e9": "#a5dcff",
    "#e69f00": "#f2b632",
}
"""What every colour of a drawing turns into on a dark page."""

MOST_LINES = 7
"""Lines of one figure that a reader tells apart; more are drawn in grey."""

SETTINGS: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": EDGE,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.7,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "rtx_lab",
    "svg.fonttype": "path",
    "path.simplify": True,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Hold the house settings while figures are made and written; a reader's own matplotlibrc changes nothing."""
    import matplotlib
    from matplotlib import rc_context

    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells every glyph that it writes into a PDF

    with rc_context():
        matplotlib.rcdefaults()
        settings: Any = SETTINGS | {"font.family": fonts.families()}
        matplotlib.rcParams.update(settings)
        yield


def sheet(*, height_in: float = HEIGHT_IN, width_in: float = WIDTH_IN) -> tuple[Sheet, Axes]:
    """An empty figure with one pair of axes."""
    figure, (axes,) = panels(1, 1, height_in=height_in, width_in=width_in)
    return figure, axes


def panels(rows: int, columns: int, *, height_in: float, width_in: float) -> tuple[Sheet, list[Axes]]:
    """An empty figure with several pairs of axes, row by row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width_in, height_in), layout=ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.07))
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(rows * columns)]


def look(number: int) -> dict[str, Any]:
    """Colour, marker and dashes of line `number`: every line differs in two of them, so it reads without colour."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[number % len(DASHES)],
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
    }


def save(figure: Sheet, folder: Path, stem: str) -> None:
    """Write figures/<stem>.png and .svg below `folder`, each whole or not at all, without date or version.

    A sign that no installed font has is drawn as `?`, not as a box. Raises RunError when the disk refuses.
    """
    place = folder / "figures"
    fonts.replace_unknown(figure)
    for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        buffer, path = io.BytesIO(), place / f"{stem}.{ending}"
        figure.savefig(buffer, format=ending, dpi=200, metadata=metadata)
        figure.set_layout_engine("none")  # as the first one laid it out: half of the time goes into that
        beside = path.with_name(f".{path.name}")
        try:
            place.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(buffer.getvalue())
            beside.replace(path)
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror}; free space or change its permissions") from error
    figure.clear()


def scale(axes: Axes, side: str, values: Sequence[float]) -> None:
    """Mark an axis (`x` or `y`) at the swept values themselves, with a logarithmic scale where they are powers.

    Labels that would touch their neighbour are left out.
    """
    marked = sorted(set(values))
    powers = _is_wide(marked)
    place = [math.log(value) for value in marked] if powers else list(marked)
    gap = 0.1 * (place[-1] - place[0])
    kept = [marked[0]]
    for value, here in zip(marked[1:], place[1:], strict=True):
        if here - (math.log(kept[-1]) if powers else kept[-1]) >= gap:
            kept.append(value)
    _mark(axes, side, kept, [f"{value:g}" for value in kept], powers)
    if len(marked) > 1:
        margin = 0.6 * gap
        low, high = place[0] - margin, place[-1] + margin
        _limit(axes, side, (math.exp(low), math.exp(high)) if powers else (low, high))


def scale_amounts(axes: Axes, side: str, values: Sequence[float]) -> None:
    """Mark an axis of measured amounts with 1, 2 and 5 and short signs (k, M, G, T); logarithmic where they spread."""
    low, high = min(values), max(values)
    if not _is_wide([low, high]):
        count(axes, side)
        return
    low, high = low / 1.3, high * 1.3
    steps = (1, 2, 5) if high / low < 300 else (1,)
    every = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marked = [step * 10.0**power for power in every for step in steps if low <= step * 10.0**power <= high]
    _mark(axes, side, marked, [compact(value) for value in marked], True)
    _limit(axes, side, (low, high))


def count(axes: Axes, side: str) -> None:
    """Mark a linear axis with short signs (k, M, G, T)."""
    axis = axes.xaxis if side == "x" else axes.yaxis
    axis.set_major_locator(_ticker().MaxNLocator(5))
    axis.set_major_formatter(_ticker().FuncFormatter(lambda value, _: compact(value)))


def count_whole(axes: Axes, side: str) -> None:
    """Mark an axis of steps or classes at whole numbers alone."""
    axis = axes.xaxis if side == "x" else axes.yaxis
    axis.set_major_locator(_ticker().MaxNLocator(7, integer=True))


def end_at_one(axes: Axes, side: str) -> None:
    """Cut an axis of shares to 0 .. 1: an interval from few seeds reaches beyond, a share never does."""
    low, high = axes.get_xlim() if side == "x" else axes.get_ylim()
    _limit(axes, side, (max(low, 0.0), min(high, 1.0)))


def compact(value: float) -> str:
    """Return an amount in at most three digits and a sign: 237056 -> `237k`, 0.045 -> `0.045`."""
    for size, sign in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{sign}"
    return f"{value:.3g}"


def legend(figure: Sheet, axes: Axes) -> None:
    """Put the names of the lines below the axes, the paper growing with them, so that none covers a line."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    texts = [shorten(label, 58) for label in labels]
    columns = 2 if max(map(breadth, texts)) <= 28 and len(texts) > 1 else 1
    figure.set_figheight(figure.get_figheight() + 0.19 * math.ceil(len(texts) / columns))
    figure.legend(handles, texts, loc="outside lower center", ncols=columns, columnspacing=1.4)


def breadth(text: str) -> int:
    """Return how broad a text is in Latin letters; a Hangul syllable is as broad as two."""
    return sum(2 if east_asian_width(sign) in "WF" else 1 for sign in text)


def shorten(text: str, limit: int) -> str:
    """Return a text at most `limit` broad; what is cut falls out of its middle, where names differ least."""
    if breadth(text) <= limit:
        return text
    head, tail = _fitting(text, (limit - 3) // 2), _fitting(text[::-1], (limit - 3) // 2)[::-1]
    return f"{head}...{tail}"


def wrap(text: str, limit: int) -> str:
    """Return a text broken into at most three lines of at most `limit`, behind spaces, hyphens and underscores."""
    lines = [""]
    for word in re.findall(r"[^\s_-]*[\s_-]*", shorten(text, 3 * limit - 9)):
        while breadth(lines[-1] + word.rstrip()) > limit:
            room = limit if lines[-1] == "" else 0
            head = _fitting(word, room)
            lines[-1:] = [lines[-1] + head, ""]
            word = word[len(head) :]
        lines[-1] += word
    return "\n".join(line.rstrip() for line in lines if line)


def _fitting(text: str, limit: int) -> str:
    """The longest start of a text that is at most `limit` broad."""
    count = 0
    while count < len(text) and breadth(text[: count + 1]) <= limit:
        count += 1
    return text[:count]


def _is_wide(values: Sequence[float]) -> bool:
    return values[0] > 0 and values[-1] / values[0] >= 3


def _mark(axes: Axes, side: str, values: Sequence[float], texts: Sequence[str], powers: bool) -> None:
    axis = axes.xaxis if side == "x" else axes.yaxis
    if powers:
        (axes.set_xscale if side == "x" else axes.set_yscale)("log")
    axis.set_major_locator(_ticker().FixedLocator(values))
    axis.set_major_formatter(_ticker().FixedFormatter(texts))
    axis.set_minor_locator(_ticker().NullLocator())


def _limit(axes: Axes, side: str, span: tuple[float, float]) -> None:
    (axes.set_xlim if side == "x" else axes.set_ylim)(*span)


def _ticker() -> Any:
    from matplotlib import ticker

    return ticker
