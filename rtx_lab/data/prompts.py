"""Questions as whole prompts: everything that a causal model reads before it writes its answer.

Templates: `chat` (the tokenizer's own, one user message), `plain` (`Question: ...` and `Answer:` after one
instruction), `none` (the question alone). The task prefix of a source (`solve: `) belongs to the other models and is
left out. A tokenizer that puts a start token before a text gets it in `plain` and `none` as well; a chat template
writes its own. A prompt ends where a token ends, so that prompt and answer may be encoded apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rtx_lab.core.errors import UsageError
from rtx_lab.data import formats
from rtx_lab.data.chat_templates import render_chat
from rtx_lab.data.corpus import CorpusSplit
from rtx_lab.data.items import Item
from rtx_lab.data.reading import Row
from rtx_lab.data.text import SplitSource, TextDataset
from rtx_lab.data.tokenizers import STAND_IN, Tokenizer

PROMPTS_VERSION = 1
"""Raise when a prompt or an answer becomes another text for the same row."""
TEMPLATES = ("auto", "chat", "plain", "none")
CALCULATORS = ("strip", "keep")
INSTRUCTION = "Solve the problem step by step, then write #### and the number that is the answer."
PLAIN_BEFORE, PLAIN_AFTER = f"{INSTRUCTION}\n\nQuestion: ", "\nAnswer:\n"
# A line's end, no space, before the answer: byte-level tokenizers join a space with the word that follows it.
NEXT_QUESTION = "\nQuestion:"
MARKED = "<<48/2=24>>"
LEAST_QUESTION = 16
"""Tokens that must be left for a question beside its template."""
_PLACE, _REPLY = "THE-QUESTION-STANDS-HERE", "THE-ANSWER-STANDS-HERE"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptedSplit:
    """A split whose sources are whole prompts; targets, and whatever else its items say, stay as they are."""

    source: SplitSource
    before: str
    after: str

    @property
    def num_items(self) -> int:
        return self.source.num_items

    def digest(self) -> str:
        parts = [PROMPTS_VERSION, self.source.digest(), self.before, self.after]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def items(self) -> list[Item]:
        return [self._prompt(item) for item in self.source.items()]

    def _prompt(self, item: Item) -> Item:
        question = item.source[item.keep :]
        return replace(item, source=f"{self.before}{question}{self.after}", keep=len(self.before))


def prompted(dataset: TextDataset, template: str, calculator: str) -> TextDataset:
    """Return the dataset with prompts for sources, its splits under digests of their own.

    `template` is one of TEMPLATES (`auto`: see `resolve_template`); `calculator` says whether the marks `<<48/2=24>>`
    of GSM8K's solutions are left out (`strip`) or written (`keep`); made data has none. `max_source_length` counts the
    template: a prompt that is too long loses the beginning of its question. Over a tokenizer without words, which
    prices use, every template is `none`. Raises UsageError for settings that the dataset or its tokenizer cannot serve.
    """
    if calculator not in CALCULATORS:
        raise UsageError(f"task.calculator must be one of {', '.join(CALCULATORS)}, not {calculator!r}.")
    if dataset.answer != "number":
        raise UsageError(f"{dataset.name} has options to choose from: worked solutions need gsm8k or arithmetic.")
    before, after = prompt_frame(dataset.tokenizer, template)
    frame = [index for text in (before, after) if text for index in dataset.tokenizer.encode(text)]
    if len(frame) + LEAST_QUESTION > dataset.max_source_length:
        raise UsageError(
            f"The template takes {len(frame)} tokens and leaves fewer than {LEAST_QUESTION} of "
            f"dataset.max_source_length={dataset.max_source_length} for the question: raise it, or set "
            "task.template=none."
        )
    # A chat template writes special tokens that plain text never holds, which a split would refuse.
    tokenizer = replace(dataset.tokenizer, vocab_size=max(dataset.tokenizer.vocab_size, *(1 + i for i in frame), 1))
    sources = dataset.sources
    if calculator == "keep":
        sources = {name: _with_marks(dataset, source) for name, source in sources.items()}
    prompts = {name: PromptedSplit(source=source, before=before, after=after) for name, source in sources.items()}
    return replace(dataset, tokenizer=tokenizer, sources=prompts, _opened={})


def resolve_template(tokenizer: Tokenizer, template: str) -> str:
    """Return `chat`, `plain` or `none` for one of TEMPLATES.

    `auto` is `chat` where the tokenizer has a chat template, else `plain`, but `none` where its closed vocabulary
    cannot spell the plain one. Raises UsageError for a template that the tokenizer cannot write.
    """
    if template not in TEMPLATES:
        raise UsageError(f"task.template must be one of {', '.join(TEMPLATES)}, not {template!r}.")
    if tokenizer.name == STAND_IN:
        return "none"
    spells = _spells(tokenizer, PLAIN_BEFORE + PLAIN_AFTER)
    if template == "auto":
        return "chat" if tokenizer.chat_template else "plain" if spells else "none"
    if template == "chat" and not tokenizer.chat_template:
        raise UsageError(f"The tokenizer {tokenizer.name} has no chat template: set task.template=plain.")
    if template == "plain" and not spells:
        raise UsageError(
            f"The closed vocabulary of the tokenizer {tokenizer.name} cannot spell the plain template: "
            "set task.template=none."
        )
    return template


def prompt_frame(tokenizer: Tokenizer, template: str) -> tuple[str, str]:
    """Return the texts before and after a question. Raises UsageError as `resolve_template`."""
    kind = resolve_template(tokenizer, template)
    if kind == "chat":
        return _chat(tokenizer)
    return _plain(tokenizer) if kind == "plain" else (_start(tokenizer), "")


def stop_texts(tokenizer: Tokenizer, template: str) -> tuple[str, ...]:
    """Return the texts at which an answer ends: in `plain`, where a further question begins.

    Raises UsageError as `resolve_template`.
    """
    return (NEXT_QUESTION,) if resolve_template(tokenizer, template) == "plain" else ()


def stop_ids(tokenizer: Tokenizer, template: str) -> tuple[int, ...]:
    """Return the token ids that end an answer: the tokenizer's end and, for `chat`, what closes a turn there.

    The two differ for base models, whose end is `<|endoftext|>` beside a chat template that closes with `<|im_end|>`.
    """
    if resolve_template(tokenizer, template) != "chat":
        return (tokenizer.eos_id,)
    try:
        text = _render(tokenizer, [("user", _PLACE), ("assistant", _REPLY)], answer_next=False)
    except UsageError:  # templates of other than alternating roles
        return (tokenizer.eos_id,)
    closing = tokenizer.encode(text.rpartition(_REPLY)[2].lstrip())[:1]
    return (tokenizer.eos_id, *(index for index in closing if index in tokenizer.special_ids - {tokenizer.eos_id}))


def before_stop(text: str, stops: Sequence[str]) -> str:
    """Return what stands before the first of the stop texts, or the whole text."""
    places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return text[: min(places, default=len(text))]


def gsm8k_marked(row: Row, row_id: str) -> Item:
    """GSM8K, the worked solution with its calculator marks as target, ending in `#### 18`."""
    item = formats.gsm8k_rationale(row, row_id)
    return replace(item, target=f"{row.text('answer').rpartition('####')[0].strip()}\n#### {item.gold}")


def _with_marks(dataset: TextDataset, source: SplitSource) -> SplitSource:
    if not isinstance(source, CorpusSplit):
        return source
    if source.to_item is not formats.gsm8k_rationale:
        raise UsageError(
            "task.calculator=keep writes the marks of worked solutions: set dataset.target=rationale, "
            "or task.calculator=strip."
        )
    if dataset.tokenizer.name != STAND_IN and not _spells(dataset.tokenizer, MARKED):
        raise UsageError(f"The tokenizer {dataset.tokenizer.name} cannot spell {MARKED}: set task.calculator=strip.")
    return replace(source, to_item=gsm8k_marked, settings=f"{gsm8k_marked.__name__} {formats.FORMATS_VERSION}")


def _spells(tokenizer: Tokenizer, text: str) -> bool:
    """Whether a text comes back from its ids, spaces and case apart: what a closed vocabulary lacks does not."""
    back = tokenizer.decode(tokenizer.encode(text))
    return "".join(back.split()).casefold() == "".join(text.split()).casefold()


def _start(tokenizer: Tokenizer) -> str:
    return "".join(tokenizer.backend.id_to_token(index) for index in tokenizer.frame()[0])


def _plain(tokenizer: Tokenizer) -> tuple[str, str]:
    return _start(tokenizer) + PLAIN_BEFORE, PLAIN_AFTER


def _chat(tokenizer: Tokenizer) -> tuple[str, str]:
    text = _render(tokenizer, [("user", f"{INSTRUCTION}\n\n{_PLACE}")], answer_next=True)
    if text.count(_PLACE) != 1:
        raise UsageError(
            f"The chat template of the tokenizer {tokenizer.name} does not write the user's message exactly once: "
            "set task.template=plain."
        )
    before, _, after = text.partition(_PLACE)
    return before, after


def _render(tokenizer: Tokenizer, messages: list[tuple[str, str]], *, answer_next: bool) -> str:
    ids = {"eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id, "bos_token": tokenizer.start_id}
    if tokenizer.start_id == tokenizer.pad_id != tokenizer.eos_id:
        del ids["bos_token"]  # padding stands in for a start that the tokenizer does not have
    specials = {name: tokenizer.backend.id_to_token(index) for name, index in ids.items()}
    return render_chat(tokenizer.chat_template or "", messages, specials, answer_next=answer_next)
