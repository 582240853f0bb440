"""One sample as text, before any tokenizer has seen it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A source, the text to be produced, and what is needed to judge a prediction.

    `options` are contents to be ranked by likelihood and `label` the index of the right one; both are empty for a
    number. `keep` is how much of the head of `source` (in characters) survives when it is too long: the prefix.
    """

    source: str
    target: str
    gold: str
    options: tuple[str, ...] = ()
    label: int | None = None
    id: str = ""
    difficulty: int | None = None
    family: str | None = None
    keep: int = 0
