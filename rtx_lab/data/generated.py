"""The built-in data sets: generated from a seed, offline, in seconds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from types import ModuleType

from rtx_lab.core.errors import UsageError
from rtx_lab.data import arithmetic as problems
from rtx_lab.data import reasoning as puzzles
from rtx_lab.data.items import Item
from rtx_lab.data.text import TextDataset
from rtx_lab.data.tokenizers import SHIPPED, load_tokenizer
from rtx_lab.data.words import vocabulary

GENERATOR_VERSION = 6
"""Raise when a generator gives other items for the same seed; a golden test tells when."""
SHARES = {"train": range(0, 7), "validation": range(7, 8), "test": range(8, 10)}
"""Which tenths of all texts, told by a digest, a split may hold: so no text is in two splits, however large."""
DATA_SEED = 20250531
BUILT_IN_ENTRIES = len(vocabulary())
PATIENCE = 20
"""Repeated texts that are drawn before one is taken all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """One split of a generator.

    Item i is a pure function of (seed, split, i), so a longer split begins with a shorter one.
    """

    name: str
    make: Callable[[Random, str, int], Item]
    families: tuple[str, ...]
    weights: dict[int, int]
    seed: int
    split: str
    num_items: int

    def digest(self) -> str:
        parts = [GENERATOR_VERSION, self.name, self.families, self.weights, self.seed, self.split, self.num_items]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def items(self) -> list[Item]:
        seen: set[str] = set()
        cycle = difficulty_cycle(self.weights)
        return [self._item(index, cycle, seen) for index in range(self.num_items)]

    def _item(self, index: int, cycle: list[int], seen: set[str]) -> Item:
        """Draw until the text belongs to this split and is new; a kind of item that is used up repeats itself."""
        family = self.families[index % len(self.families)]
        difficulty = cycle[(index // len(self.families)) % len(cycle)]
        rng = Random(f"{self.seed}/{self.families[0]}/{self.split}/{index}")
        repeats = 0
        while True:
            item = self.make(rng, family, difficulty)
            if share(item.source) not in SHARES[self.split]:
                continue
            if item.source not in seen or repeats == PATIENCE:
                seen.add(item.source)
                return replace(item, id=f"{self.split}-{index}", difficulty=difficulty, family=family)
            repeats += 1


def share(text: str) -> int:
    """The tenth (0 to 9) that a text belongs to by its content."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 10


def difficulty_cycle(weights: dict[int, int]) -> list[int]:
    """Difficulties in their proportions, spread out: every 21 items of a family hold the exact mix of 6:5:4:3:2:1."""
    places = [((turn + 0.5) / weight, difficulty) for difficulty, weight in weights.items() for turn in range(weight)]
    return [difficulty for _, difficulty in sorted(places)]


def reasoning(
    *,
    num_train: int = 8000,
    num_validation: int = 512,
    num_test: int = 1536,
    data_seed: int = DATA_SEED,
    vocab_size: int = BUILT_IN_ENTRIES,
) -> TextDataset:
    """Multiple choice over relational chains, boolean deduction and comparisons, difficulty 1 to 6.

    `reasoning.py` tells how they are made, and the mix. The counts are rows per split; `data_seed` fixes the items and
    has nothing to do with the seed of a run. 8000 rows are 125 steps of 64.
    """
    sizes = {"train": num_train, "validation": num_validation, "test": num_test}
    sources = _sources("reasoning", puzzles.make, puzzles, data_seed, sizes)
    return _dataset(
        "reasoning", sources, answer="options", vocab_size=vocab_size, max_source_length=42, max_target_length=3
    )


def arithmetic(
    *,
    num_train: int = 8000,
    num_validation: int = 512,
    num_test: int = 1536,
    data_seed: int = DATA_SEED,
    target: str = "rationale",
    vocab_size: int = BUILT_IN_ENTRIES,
) -> TextDataset:
    """Word problems of 1 to 6 operations in the format of GSM8K (see `arithmetic.py`): a number is generated.

    `target` is `rationale` (the worked solution, then `#### number`) or `final` (the number alone).
    """
    if target not in ARITHMETIC_TARGETS:
        raise UsageError(f"dataset.target must be one of {', '.join(ARITHMETIC_TARGETS)}, not {target!r}.")
    make, longest = ARITHMETIC_TARGETS[target]
    sizes = {"train": num_train, "validation": num_validation, "test": num_test}
    sources = _sources(f"arithmetic-{target}", make, problems, data_seed, sizes)
    return _dataset(
        "arithmetic", sources, answer="number", vocab_size=vocab_size, max_source_length=62, max_target_length=longest
    )


def _sources(
    name: str, make: Callable[[Random, str, int], Item], kind: ModuleType, data_seed: int, sizes: dict[str, int]
) -> dict[str, Generated]:
    """The splits of one generator; `kind` is the module that states its families and its mix."""
    families, weights = kind.FAMILIES, kind.DIFFICULTY_WEIGHTS
    return {
        split: Generated(
            name=name, make=make, families=families, weights=weights, seed=data_seed, split=split, num_items=size
        )
        for split, size in sizes.items()
    }


ARITHMETIC_TARGETS = {"final": (problems.make_final, 3), "rationale": (problems.make_rationale, 58)}


def _dataset(
    name: str,
    sources: dict[str, Generated],
    *,
    answer: str,
    vocab_size: int,
    max_source_length: int,
    max_target_length: int,
) -> TextDataset:
    wrong = [
        f"dataset.num_{split} must be at least 1, not {source.num_items}."
        for split, source in sources.items()
        if source.num_items < 1
    ]
    if wrong:
        raise UsageError(*wrong)
    return TextDataset(
        name=name,
        tokenizer=load_tokenizer(SHIPPED),
        answer=answer,
        vocab_size=vocab_size,
        max_source_length=max_source_length,
        max_target_length=max_target_length,
        sources=sources,
        num_options=4 if answer == "options" else 0,
    )
