"""Damage to a file as disks and killed writers leave it."""

import random
from pathlib import Path


def damage(path: Path, rng: random.Random) -> str:
    """Cut a file short or flip one bit of it; return what was done."""
    raw = bytearray(path.read_bytes())
    if rng.random() < 0.5:
        cut = rng.randrange(len(raw))
        path.write_bytes(raw[:cut])
        return f"{path.name} cut at byte {cut}"
    bit = rng.randrange(8 * len(raw))
    raw[bit // 8] ^= 1 << bit % 8
    path.write_bytes(raw)
    return f"{path.name} bit {bit} flipped"
