"""Random numbers that are a pure function of what they belong to: splitmix64 on int64 tensors.

A draw from a generator would depend on how a batch is cut and on what else is in it; these do not, and every device
computes the same bits.
"""

from __future__ import annotations

from torch import Tensor


def _signed(value: int) -> int:
    """The int64 with the bits of an unsigned 64-bit constant."""
    return value - (1 << 64) if value >= 1 << 63 else value


GOLDEN, _MIX_1, _MIX_2 = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def scramble(word: Tensor) -> Tensor:
    """Return the finaliser of splitmix64 of every word (int64, any shape)."""
    word = (word ^ shift_right(word, 30)) * _MIX_1
    word = (word ^ shift_right(word, 27)) * _MIX_2
    return word ^ shift_right(word, 31)


def shift_right(word: Tensor, bits: int) -> Tensor:
    """Shift right without copying the sign."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)


def to_uniform(word: Tensor) -> Tensor:
    """Return float32 in [0, 1) of scrambled words: 24 bits are what a float32 below 1 can hold."""
    return shift_right(word, 40).float() / (1 << 24)
