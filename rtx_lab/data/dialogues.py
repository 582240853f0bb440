"""Dialogues with summaries as token ids: what summarising learns from.

A source is the prefix and the dialogue, line breaks between turns kept, as the tokenizer itself frames a text (T5:
... </s>; BART: <s> ... </s>). A longer one loses its last turns and keeps its end. Nothing is filtered or cleaned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.data import store
from rtx_lab.data.splits import SPLITS, digest_of_splits, open_once, split_digest
from rtx_lab.data.text import Split, chunks, int32, joined, noted, refuse_ids
from rtx_lab.data.tokenizers import Tokenizer, load_tokenizer

FORMAT_VERSION = "dialogues 1"
SUBMISSION = "submission"
"""The split that has no summaries: what is handed in."""
DETAILS = (
    "#PhoneNumber#", "#Address#", "#PassportNumber#", "#DateOfBirth#", "#SSN#", "#CardNumber#", "#CarNumber#",
    "#Email#",
)  # fmt: skip
SPECIAL_TOKENS = ("#Person1#", "#Person2#", "#Person3#", *DETAILS)
"""The eleven that the original experiments registered."""
ALL_SPECIAL_TOKENS = (*(f"#Person{number}#" for number in range(1, 8)), *DETAILS)
"""Every speaker that occurs in DialogSum, and the details that are hidden in its Korean translation."""
ROUGE_TOKENIZERS = ("whitespace", "characters", "morphemes")
SHORTEST_SOURCE, SHORTEST_TARGET = 16, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """One row: turns apart by line breaks, and its summaries, of which the first is what is learnt."""

    id: str
    dialogue: str
    references: tuple[str, ...] = ()
    topic: str | None = None
    language: str | None = None


class DialogueSource(Protocol):
    """Where the dialogues of one split come from."""

    @property
    def num_items(self) -> int:
        """How many dialogues there are, as generated, published or counted."""
        ...

    def digest(self) -> str:
        """Names the content without encoding it."""
        ...

    def dialogues(self) -> list[Dialogue]:
        """The dialogues, in the order of the split."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DialogueDataset:
    """Named dialogues over a tokenizer that knows `special_tokens`; made by `over`.

    `max_source_length` and `max_target_length` are in tokens, start and end included. `rouge_tokenizer` names the
    tokens that summaries are judged over. A split is read, encoded and cached when first asked for; its rows serve
    `collate` as those of questions do.
    """

    holds: ClassVar[str] = "dialogues with summaries"
    example: ClassVar[str] = "dialogues (or dialogsum, ...)"

    name: str
    tokenizer: Tokenizer
    vocab_size: int
    special_tokens: tuple[str, ...]
    prefix: str
    max_source_length: int
    max_target_length: int
    rouge_tokenizer: str
    sources: Mapping[str, DialogueSource]
    answer: str = "summary"
    num_options: int = 0
    _opened: dict[str, Split] = field(default_factory=dict)

    @property
    def final_splits(self) -> tuple[str, ...]:
        """What a finished model is run on: validation, test, and the dialogues without summaries if there are any."""
        return ("validation", "test", *(name for name in self.sources if name == SUBMISSION))

    def digest(self) -> str:
        """Names what the three splits hold; a split whose data are missing counts as missing."""
        return digest_of_splits(self._split_digest)

    def num_rows(self, name: str) -> int:
        """Rows of a split as generated, published or counted, told without encoding data."""
        return self.sources[name].num_items

    def split(self, name: str) -> Split:
        """Open `train`, `validation`, `test` or, where there are dialogues without summaries, `submission`.

        Raises UsageError for another name, RunError for missing or broken data.
        """
        return open_once(self._opened, name, self._open, dataset=self.name, known=self.sources)

    def check_vocabulary(self, vocab_size: int, splits: Sequence[str] = SPLITS) -> None:
        """Refuse, naming the first row, ids that a model of `vocab_size` entries does not know (RunError)."""
        for name in splits:
            refuse_ids(self.name, name, self.split(name), vocab_size)

    def encode_source(self, dialogue: str) -> np.ndarray:
        """The ids (S,) int32 of a dialogue as the model reads it: prefix, frame, cut from the end."""
        return _framed(self, self.tokenizer.encode(self.prefix + dialogue), self.tokenizer.frame())

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a written summary: up to its end, speakers and other special tokens of the data kept."""
        backend = self.tokenizer.backend
        kept = [index for text in self.special_tokens if (index := backend.token_to_id(text)) is not None]
        return self.tokenizer.decode_answer(ids, keep=kept).strip()

    def _open(self, name: str) -> Split:
        digest, source = self._split_digest(name), self.sources[name]
        return Split(store.open_or_build(f"{self.name}-{name}", digest, lambda: encode(self, source.dialogues())))

    def _split_digest(self, name: str) -> str:
        frame, lengths = self.tokenizer.frame(), (self.max_source_length, self.max_target_length)
        return split_digest(FORMAT_VERSION, self.sources[name], self.tokenizer, frame, self.prefix, *lengths)


def over(
    name: str,
    sources: Mapping[str, DialogueSource],
    *,
    tokenizer: str | None,
    vocab_size: int | None,
    special_tokens: Sequence[str],
    prefix: str,
    max_source_length: int,
    max_target_length: int,
    rouge_tokenizer: str,
) -> DialogueDataset:
    """Dialogues over a tokenizer by its name, to which `special_tokens` are added.

    Raises UsageError, all problems at once, for values out of range; `vocab_size` None stands for what is needed.
    """
    problems = _problems(max_source_length, max_target_length, rouge_tokenizer)
    if tokenizer is None:
        problems.append(f"dataset.tokenizer of {name} is null: it follows the model's, so name a model or a tokenizer.")
    if problems or tokenizer is None:
        raise UsageError(*problems)
    loaded = load_tokenizer(tokenizer).with_tokens(special_tokens).framed()
    if vocab_size is not None and vocab_size < loaded.vocab_size:
        raise UsageError(
            f"dataset.vocab_size={vocab_size} is less than the {loaded.vocab_size} entries of its tokenizer with the "
            f"special tokens: leave it null, or set dataset.vocab_size={loaded.vocab_size}"
        )
    return DialogueDataset(
        name=name,
        tokenizer=loaded,
        vocab_size=vocab_size or loaded.vocab_size,
        special_tokens=tuple(special_tokens),
        prefix=prefix,
        max_source_length=max_source_length,
        max_target_length=max_target_length,
        rouge_tokenizer=rouge_tokenizer,
        sources=sources,
    )


def _problems(source_length: int, target_length: int, rouge_tokenizer: str) -> list[str]:
    problems = []
    if source_length < SHORTEST_SOURCE:
        problems.append(f"dataset.max_source_length must be at least {SHORTEST_SOURCE}, not {source_length}.")
    if target_length < SHORTEST_TARGET:
        problems.append(f"dataset.max_target_length must be at least {SHORTEST_TARGET}, not {target_length}.")
    if rouge_tokenizer not in ROUGE_TOKENIZERS:
        problems.append(f"dataset.rouge_tokenizer must be one of {', '.join(ROUGE_TOKENIZERS)}: {rouge_tokenizer!r}.")
    return problems


def encode(dataset: DialogueDataset, rows: list[Dialogue]) -> tuple[store.Arrays, dict[str, Any]]:
    """Turn dialogues into flat arrays with offsets. Raises RunError when there are none or an end stands in a text."""
    if not rows:
        raise RunError(f"{dataset.name} has no rows.")
    tokenizer, frame = dataset.tokenizer, dataset.tokenizer.frame()
    flat: dict[str, list[np.ndarray]] = {"source": [], "target": [], "option": [], "record": []}
    cut_sources = cut_targets = 0
    for chunk in chunks(rows, dataset.name):
        for ids in tokenizer.encode_batch([dataset.prefix + row.dialogue for row in chunk]):
            flat["source"].append(_framed(dataset, ids, frame))
            cut_sources += len(ids) + len(frame[0]) + len(frame[1]) > dataset.max_source_length
        golds = [row.references[0] if row.references else "" for row in chunk]
        for row, ids in zip(chunk, tokenizer.encode_batch(golds), strict=True):
            if tokenizer.eos_id in ids:
                raise RunError(f"The summary {row.id} of {dataset.name} holds the end token as text: take it out.")
            flat["target"].append(int32(ids[: dataset.max_target_length - 1]))
            cut_targets += len(ids) >= dataset.max_target_length
        flat["record"] += [np.frombuffer(_record(dataset, row), dtype=np.uint8) for row in chunk]
    arrays = {"row_offsets": np.zeros(len(rows) + 1, np.int64), **joined(flat)}
    return arrays, noted(dataset.name, tokenizer, [row.id for row in rows], arrays, cut_sources, cut_targets)


def _framed(dataset: DialogueDataset, ids: list[int], frame: tuple[list[int], list[int]]) -> np.ndarray:
    before, after = frame
    return int32([*before, *ids[: dataset.max_source_length - len(before) - len(after)], *after])


def _record(dataset: DialogueDataset, row: Dialogue) -> bytes:
    fields = {
        "id": row.id,
        "dialogue": row.dialogue,
        "source": dataset.prefix + row.dialogue,
        "gold": row.references[0] if row.references else "",
        "references": list(row.references),
        "topic": row.topic,
        "language": row.language,
    }
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace")
