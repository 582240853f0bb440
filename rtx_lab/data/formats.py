"""One row of a public data set as source, target and options: pure functions.

The prefixes `reason:`, `solve:` and `strategy:` and the wording of the options are those of the original experiments;
`choose:` and `sentiment:` follow them. Answers are contents (the text of an option), never letters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rtx_lab.core.errors import RunError
from rtx_lab.data.items import Item
from rtx_lab.data.reading import Row

FORMATS_VERSION = 1
"""Raise when a format gives other texts for the same row."""
LETTERS = "ABCDEFGHIJ"
SENTIMENTS = ("negative", "positive")
CALCULATION = re.compile(r"<<[^<>]*>>")


def _numbered(options: Sequence[str]) -> str:
    return " ".join(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))


def _choice(prefix: str, body: str, options: Sequence[str], label: int, row_id: str) -> Item:
    return Item(
        id=row_id,
        source=f"{prefix} {body}",
        keep=len(prefix) + 1,
        target=options[label],
        gold=options[label],
        options=tuple(options),
        label=label,
    )


def logiqa(row: Row, row_id: str) -> Item:
    """LogiQA: context, query, four options, correct_option (0 to 3)."""
    options = [option.strip() for option in row.texts("options")]
    body = f"Context: {row.text('context')} Question: {row.text('query')} Options: {_numbered(options)}"
    return _choice("reason:", body, options, row.choice("correct_option", len(options)), row_id)


def strategyqa(row: Row, row_id: str) -> Item:
    """StrategyQA: the question alone; facts and decomposition tell the answer and stay out."""
    body = f"{row.text('question').strip()} Answer (Yes or No):"
    return _choice("strategy:", body, ("yes", "no"), 0 if row.truth("answer") else 1, row.optional("qid", row_id))


def commonsenseqa(row: Row, row_id: str) -> Item:
    """CommonsenseQA: question and choices {label, text}; a hidden answer key is refused."""
    choices = row.nested("choices")
    options, labels, key = choices.texts("text"), choices.texts("label"), row.text("answerKey")
    if key not in labels:
        raise RunError(f"{row.where}: the answer key {key!r} is none of {', '.join(labels)} (hidden test answers?).")
    body = f"{row.text('question').strip()} Options: {_numbered(options)}"
    return _choice("choose:", body, options, labels.index(key), row.optional("id", row_id))


def sst2(row: Row, row_id: str) -> Item:
    """SST-2: a sentence, label 0 (negative) or 1 (positive); hidden labels (-1) are refused."""
    return _choice("sentiment:", row.text("sentence").strip(), SENTIMENTS, row.choice("label", 2), row_id)


def gsm8k_final(row: Row, row_id: str) -> Item:
    """GSM8K, the number alone as target (`18`), as in the original experiments."""
    _, final = _solution(row)
    return _problem(row, row_id, final, final)


def gsm8k_rationale(row: Row, row_id: str) -> Item:
    """GSM8K, the worked solution as target, ending in `#### 18`.

    The calculator marks `<<48/2=24>>` are taken out: they repeat what the text says, and T5 has no `<`.
    """
    rationale, final = _solution(row)
    return _problem(row, row_id, f"{CALCULATION.sub('', rationale).strip()}\n#### {final}", final)


GSM8K_TARGETS: dict[str, Callable[[Row, str], Item]] = {"final": gsm8k_final, "rationale": gsm8k_rationale}


def _solution(row: Row) -> tuple[str, str]:
    rationale, mark, final = row.text("answer").rpartition("####")
    if not mark:
        raise RunError(f"{row.where}: the answer has no '####' before its number.")
    return rationale, final.strip().replace(",", "")


def _problem(row: Row, row_id: str, target: str, final: str) -> Item:
    return Item(
        id=row_id,
        source=f"solve: {row.text('question').strip()}",
        keep=len("solve: "),
        target=target,
        gold=final,
        difficulty=len(CALCULATION.findall(row.text("answer"))) or None,
    )
