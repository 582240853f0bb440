"""Which typefaces figures are set in, so that Hangul shows wherever a report is made.

The font comes with the package `koreanize-matplotlib` (NanumGothic), whose files are read without importing it: its
import would change matplotlib's global settings and needs `distutils`, which newer Pythons lack.
"""

from __future__ import annotations

import functools
import io
from base64 import b64encode
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LATIN = "DejaVu Sans"
"""Ships with matplotlib, so Latin text looks the same on every machine."""

HANGUL = (
    *("NanumGothic", "Noto Sans CJK KR", "Noto Sans KR", "Malgun Gothic", "Apple SD Gothic Neo", "AppleGothic"),
    *(
        "NanumBarunGothic",
        "NanumSquare",
        "Pretendard",
        "Source Han Sans KR",
        "Noto Sans CJK JP",
        "UnDotum",
        "Baekmuk Dotum",
    ),
)
"""Families with Hangul, in the order in which they are taken from the installed ones."""

CSS = (
    'system-ui, -apple-system, "Segoe UI", Roboto, "Apple SD Gothic Neo", "Malgun Gothic", "Noto Sans KR", '
    '"Report Hangul", sans-serif'
)
"""The same for a page: the reader's own faces, Korean ones included, then the one that `font_face` puts into it."""


def families() -> list[str]:
    """The font families for matplotlib's `font.family`: Latin first, then one with Hangul where there is any.

    A glyph that the first lacks is drawn in the second. Without a Hangul font the list is the Latin one alone.
    """
    from matplotlib.font_manager import fontManager

    known = {entry.name for entry in fontManager.ttflist}
    packaged = packaged_font()
    if "NanumGothic" not in known and packaged is not None:
        fontManager.addfont(str(packaged))
        known.add("NanumGothic")
    return [LATIN, *[name for name in HANGUL if name in known][:1]]


def replace_unknown(figure: Any) -> None:
    """Put `?` for every sign in a figure's texts that none of `families` has: a box says less, and looks broken."""
    from matplotlib.text import Text
    from matplotlib.ticker import FixedFormatter, FuncFormatter

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            told = axis.get_major_formatter()
            if isinstance(told, FixedFormatter | FuncFormatter):  # its texts are made when the figure is drawn
                axis.set_major_formatter(FuncFormatter(functools.partial(_drawable_mark, told)))
    for text in figure.findobj(Text):
        if not text.get_text().isascii():
            text.set_text(drawable(text.get_text()))


def drawable(text: str) -> str:
    """Return a text with `?` for the signs that no font of `families` has."""
    if text.isascii():
        return text
    known = _known(tuple(families()))
    return "".join(sign if sign.isspace() or ord(sign) in known else "?" for sign in text)


def _drawable_mark(told: Any, value: float, place: int) -> str:
    return drawable(told(value, place))


@functools.lru_cache(maxsize=8)
def _known(names: tuple[str, ...]) -> frozenset[int]:
    """The code points that any of these installed families can draw."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    fonts = (get_font(findfont(FontProperties(family=[name]))) for name in names)
    return frozenset(point for font in fonts for point in font.get_charmap())


def font_face(text: str) -> str:
    """Return a CSS rule that carries the Korean signs of `text`, empty where it has none or no font file is at hand.

    A page then shows Hangul on a machine without a Korean font. Only the glyphs in use are taken: some kilobytes.
    """
    wanted = {ord(sign) for sign in text if is_korean(sign)}
    path = packaged_font()
    if not wanted or path is None:
        return ""
    from fontTools import subset

    options = subset.Options(flavor="woff", notdef_outline=True, layout_features=[])
    options.drop_tables += ["TSI0", "TSI1", "TSI2", "TSI3", "TSI5"]  # sources of the hinting
    font = subset.load_font(str(path), options)
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=wanted)
    cutter.subset(font)
    buffer = io.BytesIO()
    subset.save_font(font, buffer, options)
    source = f"data:font/woff;base64,{b64encode(buffer.getvalue()).decode()}"
    return f'@font-face {{ font-family: "Report Hangul"; src: url("{source}") format("woff"); }}\n'


def is_korean(sign: str) -> bool:
    """Return whether a character is a Hangul syllable or letter."""
    return any(low <= sign <= high for low, high in (("\u1100", "\u11ff"), ("\u3130", "\u318f"), ("\uac00", "\ud7a3")))


def packaged_font() -> Path | None:
    """NanumGothic.ttf of the installed package `koreanize-matplotlib`, None where it is not installed."""
    found = find_spec("koreanize_matplotlib")
    for place in (found.submodule_search_locations or []) if found is not None else []:
        path = Path(place, "fonts", "NanumGothic.ttf")
        if path.is_file():
            return path
    return None
