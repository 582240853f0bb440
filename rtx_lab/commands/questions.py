"""A question as a person types it, in the form and the tokens that a model was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rtx_lab.core.errors import UsageError

SEPARATOR = "||"  # text || option | option
SHOWN_WORDS = 5


class Encoder(Protocol):
    """What is needed of a tokenizer."""

    backend: Any

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a data set words its questions: prefix, whether options stand in the text, end, and its standing options."""

    prefix: str = ""
    lists_options: bool = False
    tail: str = ""
    options: tuple[str, ...] = ()


FORMS = {
    "gsm8k": Form(prefix="solve: "),
    "logiqa": Form(prefix="reason: ", lists_options=True),
    "strategyqa": Form(prefix="strategy: ", tail=" Answer (Yes or No):", options=("yes", "no")),
    "commonsenseqa": Form(prefix="choose: ", lists_options=True),
    "sst2": Form(prefix="sentiment: ", options=("negative", "positive")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A text with its options, and the token ids of both."""

    text: str
    options: tuple[str, ...]
    source_ids: list[int]
    option_ids: list[list[int]]


def split_options(text: str) -> tuple[str, ...]:
    """Split 'a|b|c'. Raises UsageError for fewer than two options, an empty one or one that stands twice."""
    options = tuple(option.strip() for option in text.split("|"))
    if len(options) < 2 or not all(options):
        raise UsageError(f"options are written as 'first|second|third', at least two and none empty, not {text!r}")
    if len(set(options)) < len(options):
        raise UsageError(f"an option stands twice in {text!r}")
    return options


def prepare(line: str, *, dataset: str, tokenizer: Encoder, max_seq_len: int, options: Sequence[str] = ()) -> Question:
    """Return a typed line ('text' or 'text || a|b') as a question; options in the line win over `options`.

    Raises UsageError for an empty text, one that is too long, or words that the tokenizer does not know.
    """
    text, separator, own = line.partition(SEPARATOR)
    text, form = " ".join(text.split()), FORMS.get(dataset, Form())
    chosen = split_options(own) if separator else tuple(options) or form.options
    if not text:
        raise UsageError("the text is empty: write a question")
    source = _source(text, form, chosen)
    refuse_unknown([source, *chosen], tokenizer)
    source_ids = tokenizer.encode(source)
    option_ids = [tokenizer.encode(option) for option in chosen]
    longest = max(map(len, option_ids), default=0) + 1  # the start token
    if len(source_ids) > max_seq_len or longest > max_seq_len:
        what = ("text", len(source_ids)) if len(source_ids) > max_seq_len else ("longest option", longest)
        raise UsageError(f"the {what[0]} has {what[1]} tokens and the model takes {max_seq_len}: shorten it")
    return Question(text=text, options=chosen, source_ids=source_ids, option_ids=option_ids)


def _source(text: str, form: Form, options: Sequence[str]) -> str:
    source = text if text.startswith(form.prefix) else form.prefix + text
    if form.lists_options and options and "Options:" not in source:
        listed = " ".join(f"{letter}) {option}" for letter, option in zip("ABCDEFGHIJ", options, strict=False))
        source = f"{source} Options: {listed}"
    return source if source.endswith(form.tail) else source + form.tail


def refuse_unknown(texts: Sequence[str], tokenizer: Encoder) -> None:
    """Raise UsageError, naming them, for words that the tokenizer can only read as unknown."""
    unknown = _unknown_id(tokenizer)
    if unknown is None:
        return
    words = dict.fromkeys(word for text in texts for word in text.split())
    strange = [word for word in words if unknown in (ids := tokenizer.encode(word)) and len(set(ids)) == 1]
    if strange:
        shown = ", ".join(repr(word) for word in strange[:SHOWN_WORDS])
        more = f" and {len(strange) - SHOWN_WORDS} more" if len(strange) > SHOWN_WORDS else ""
        raise UsageError(f"the model does not know {shown}{more}: use the words (and the spacing) of its data set")


def _unknown_id(tokenizer: Encoder) -> int | None:
    found = (tokenizer.backend.token_to_id(token) for token in ("<unk>", "[UNK]"))
    return next((index for index in found if index is not None), None)
