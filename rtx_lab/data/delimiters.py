"""Where an answer may be interrupted: after its sentences and lines, told from the tokens written so far.

The rule reads text from left to right and never ahead, so that training (which knows the whole answer) and generation
(which does not know the next token) find the same places. A place is the end of a token with which a sentence or a
line has just ended:

- `?`, `!` and a line's end always end one; a comma never does.
- A full stop ends one, unless a number may go on there: directly after a digit (`3.5`) or where a number may begin
  with it, after a space or one of `$ ( + - * / =` and the like (`12 * .5`). Then it counts only if the same token goes
  on with white space or a closing quote or bracket (`.` and `\n` in one token), or the next token begins with them and
  holds nothing else (the line's end as a token of its own).
- Stops, closing quotes and brackets, and white space that follow an end belong to it: `."` and `.` `\n` are one place.
- Nothing between `<<` and `>>` counts; a line's end closes marks that were left open.

A tokenizer that writes words apart by spaces puts one before a full stop as well (`= 12 .`): there a full stop after a
space ends a sentence. Abbreviations (`Mr.`) count as ends, about one in a hundred of GSM8K's places.

The rule is a small automaton over characters. What a token does to its state is worked out once per token id, so a step
of a decoder is two look-ups in tables on its device.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rtx_lab.data.tokenizers import Tokenizer

BEGIN = 0
"""The state before an answer: what stands before it is a place already."""
_WORD, _NUMBER, _GAP, _POINT, _ENDED, _OPENING, _INSIDE, _CLOSING = range(1, 9)
NUM_STATES = 9
CLOSERS = "\"'”’)]}"
SIGNS = "$€£¥₩([+-*/×÷=~≈^"
_CLASSES = {
    **dict.fromkeys("0123456789", "0"),
    **dict.fromkeys(" \t\r\u00a0", " "),
    "\n": "\n",
    ".": ".",
    "?": "!",
    "!": "!",
    **dict.fromkeys(CLOSERS, ")"),
    **dict.fromkeys(SIGNS, "+"),
    "<": "<",
    ">": ">",
    "x": "x",
}
"""One letter for each kind of character; all others are `a`."""
REPEATED = re.compile(r"([a0 ])\1+")
"""Runs of characters that change a state once."""


@dataclass(frozen=True, slots=True)
class Delimiters:
    """What each token id does to the state of an answer; arrays, or tensors after `to`.

    `kinds` (V,) int64 says which column of `transitions` (NUM_STATES, C) int64 a token id follows. Begin each answer in
    state BEGIN; a state after a token is a place for a decision if `decides` says so.
    """

    kinds: Any
    transitions: Any

    def advance(self, states: Any, ids: Any) -> Any:
        """Return the states (B,) int64 after one more token id (B,) int64 in each row; nothing is synchronised."""
        return self.transitions[states, self.kinds[ids]]

    def decides(self, states: Any) -> Any:
        """Return (B,) bool: whether a sentence or line ended with the token just read."""
        return states == _ENDED

    def to(self, device: Any) -> Delimiters:
        """Return the same tables as tensors on a device."""
        import torch

        tables = (torch.as_tensor(table, device=device) for table in (self.kinds, self.transitions))
        return Delimiters(*tables)


def find_delimiters(tokenizer: Tokenizer, vocab_size: int) -> Delimiters:
    """Return the tables of a tokenizer as arrays for `vocab_size` ids; ids without text change nothing."""
    texts, spaced = _texts(tokenizer, vocab_size)
    letters = _Letters({ord(character): kind for character, kind in _CLASSES.items()})
    shapes = [REPEATED.sub(r"\1", text.translate(letters)) for text in texts]
    columns: dict[tuple[int, ...], int] = {}
    of_shape = {
        shape: columns.setdefault(tuple(_after(state, shape, spaced) for state in range(NUM_STATES)), len(columns))
        for shape in dict.fromkeys(shapes)
    }
    kinds = np.array([of_shape[shape] for shape in shapes], dtype=np.int64)
    return Delimiters(kinds, np.array(list(columns), dtype=np.int64).T.copy())


def decision_points(delimiters: Delimiters, ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the places (n,) int64 of an answer, ascending: how many of its tokens (1 to T) stand before each.

    The prompt's end, place 0, is not among them. `delimiters` holds arrays.
    """
    transitions = delimiters.transitions.tolist()
    places, state = [], BEGIN
    for place, kind in enumerate(delimiters.kinds[np.asarray(ids, dtype=np.int64)].tolist(), start=1):
        state = transitions[state][kind]
        if state == _ENDED:
            places.append(place)
    return np.array(places, dtype=np.int64)


def _texts(tokenizer: Tokenizer, vocab_size: int) -> tuple[list[str], bool]:
    """What each id adds to a text that goes on (special ones nothing), and whether a full stop adds a space."""
    backend, special = tokenizer.backend, tokenizer.special_ids
    known = range(min(vocab_size, 1 + max(backend.get_vocab().values())))
    plain = [index for index in known if index not in special]
    texts = [""] * vocab_size
    before = next((index for index in plain if backend.decode([index]).strip().isalnum()), None)
    if before is None:  # a tokenizer without words
        return texts, False
    head = backend.decode([before])
    for index in plain:
        texts[index] = backend.decode([before, index]).removeprefix(head)
    point = backend.token_to_id(".")
    return texts, point is not None and texts[point] == " ."


class _Letters(dict[int, str]):
    """For `str.translate`: the kind of every character."""

    def __missing__(self, _: int) -> str:
        return "a"


def _after(state: int, shape: str, spaced: bool) -> int:
    """The state after a token, for a state before it: an end that an earlier token made is none of this one."""
    state = BEGIN if state == _ENDED else state
    for kind in shape:
        state = _step(state, kind, spaced)
    return state


def _step(state: int, kind: str, spaced: bool) -> int:
    """The state after one character."""
    if state == _CLOSING and kind == ">":
        return _GAP
    if state in (_INSIDE, _CLOSING) and kind != "\n":
        return _CLOSING if kind == ">" else _INSIDE
    if kind == "<":
        return _INSIDE if state == _OPENING else _OPENING
    if state in (BEGIN, _ENDED) and kind in "\n .!)":
        return state
    if kind in "\n!":
        return _ENDED
    if kind == ".":
        awaited = state == _NUMBER or (state in (_GAP, _OPENING) and not spaced)
        return _POINT if awaited else _ENDED
    if state == _POINT and kind in " )":
        return _ENDED
    if kind == "x":
        return _GAP if state == _NUMBER else _WORD  # 10x.6
    return {"0": _NUMBER, " ": _GAP, "+": _GAP, ">": _GAP}.get(kind, _WORD)
