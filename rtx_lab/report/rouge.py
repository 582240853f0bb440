"""ROUGE as runs record it: a score never goes without the name of the tokens that were counted."""

from __future__ import annotations

import re

_LEAF = re.compile(r"(?:(lead\d+)_)?rouge([12L]?)_(\w+)")
_MEAN = "ROUGE"

KINDS = ("rouge1", "rouge2", "rougeL")


def is_rouge(leaf: str) -> bool:
    """Return whether a metric is a ROUGE: `rouge1_whitespace`, or `rouge_whitespace`, the mean of three."""
    found = _LEAF.fullmatch(leaf)
    return found is not None and found[1] is None and not leaf.endswith(("_low", "_high"))


def name_of(leaf: str) -> str:
    """Return a ROUGE in words with its tokens: `rougeL_characters` -> `ROUGE-L (characters)`."""
    found = _LEAF.fullmatch(leaf)
    if found is None:
        return leaf
    return f"{_MEAN}{f'-{found[2]}' if found[2] else ''} ({found[3].replace('_', ' ')})"


def tokens_of(leaf: str) -> str:
    """Return the name of the tokens that a ROUGE counts, empty for another metric."""
    found = _LEAF.fullmatch(leaf)
    return found[3] if found is not None else ""
