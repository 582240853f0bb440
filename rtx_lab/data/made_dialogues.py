"""Small dialogues with summaries in English and Korean, generated from a seed.

Two or three people chat; then one of them (`asker`) wants something of another (`asked`), it is settled, and they part.
Four kinds take turns: a favour, a meeting, a purchase, a detail such as a telephone number. The rules of a summary:

- first who wants what of whom, with the day, the place, the thing or the purpose as it was asked for;
- then what came of it: agreed as asked; moved to another day; another place; refused, and for what reason; refused by
  one and taken over by the third; bought, haggled down to the lower price or left; told (the hidden detail) or kept.

So a summary follows from the dialogue, word by word (a test reads it back), and from nothing less: who wants something
is the first, second or third speaker, the chat names days, places, things and tasks that do not matter, speakers are
numbered in the order in which they first speak, and how it ends stands near the end. The first three turns are mostly
chat: copying them scores little.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from rtx_lab.core.errors import UsageError
from rtx_lab.data import dialogue_words as words
from rtx_lab.data.dialogues import SPECIAL_TOKENS, Dialogue, DialogueDataset, over
from rtx_lab.data.generated import DATA_SEED, SHARES, share
from rtx_lab.data.text import SPLITS

DIALOGUES_VERSION = 1
"""Raise when another dialogue comes out for the same seed; a golden test tells when."""
KINDS = {
    "favour": ("agreed", "moved", "refused", "taken over"),
    "meeting": ("agreed", "moved", "elsewhere", "refused"),
    "purchase": ("bought", "haggled", "left"),
    "details": ("told", "kept"),
}
"""What is wanted -> what may come of it."""
COURSES = {
    "agreed": ("asked: agree",),
    "moved": ("asked: other day", "asker: accept"),
    "elsewhere": ("asked: other place", "asker: accept"),
    "refused": ("asked: refuse",),
    "taken over": ("asked: refuse", "third: take over"),
    "bought": ("asked: tell price", "asker: buy"),
    "haggled": ("asked: tell price", "asker: haggle", "asked: agree"),
    "left": ("asked: tell price", "asker: leave"),
    "told": ("asked: tell",),
    "kept": ("asked: keep",),
}
"""What is said, and by whom, until it has come to that."""
LANGUAGES = {"english": ("english",), "korean": ("korean",), "both": ("english", "korean")}
WITH_A_THIRD = 0.25


def dialogues(
    *,
    num_train: int = 4000,
    num_validation: int = 128,
    num_test: int = 256,
    data_seed: int = DATA_SEED,
    language: str = "both",
    tokenizer: str | None = None,
    vocab_size: int | None = None,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    prefix: str = "",
    max_source_length: int = 128,
    max_target_length: int = 32,
    rouge_tokenizer: str = "whitespace",
) -> DialogueDataset:
    """Dialogues of 3 to 12 turns, on average 60 tokens, and summaries of 17.

    `language` is `english`, `korean` or `both` in turn. The counts are dialogues per split; `data_seed` fixes them and
    has nothing to do with the seed of a run.
    """
    sizes = dict(zip(SPLITS, (num_train, num_validation, num_test), strict=True))
    wrong = [f"dataset.num_{split} must be at least 1, not {size}." for split, size in sizes.items() if size < 1]
    if language not in LANGUAGES:
        wrong.append(f"dataset.language must be one of {', '.join(LANGUAGES)}, not {language!r}.")
    if wrong:
        raise UsageError(*wrong)
    spoken = LANGUAGES[language]
    return over(
        "dialogues",
        {name: MadeDialogues(seed=data_seed, split=name, languages=spoken, num_items=n) for name, n in sizes.items()},
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        special_tokens=special_tokens,
        prefix=prefix,
        max_source_length=max_source_length,
        max_target_length=max_target_length,
        rouge_tokenizer=rouge_tokenizer,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeDialogues:
    """One split: dialogue i is a pure function of (seed, languages, split, i); none can be in two splits."""

    seed: int
    split: str
    languages: tuple[str, ...]
    num_items: int

    def digest(self) -> str:
        parts = ["dialogues", DIALOGUES_VERSION, self.seed, self.split, self.languages, self.num_items]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def dialogues(self) -> list[Dialogue]:
        return [self.dialogue(index) for index in range(self.num_items)]

    def dialogue(self, index: int) -> Dialogue:
        """Draw until the digest of the text says that it belongs to this split."""
        language = self.languages[index % len(self.languages)]
        kind = tuple(KINDS)[index // len(self.languages) % len(KINDS)]
        rng = Random(f"{self.seed}/dialogues/{'+'.join(self.languages)}/{self.split}/{index}")
        while True:
            text, summary = hold(rng, words.LANGUAGES[language], kind)
            if share(text) in SHARES[self.split]:
                return Dialogue(
                    id=f"{self.split}_{index}", dialogue=text, references=(summary,), topic=kind, language=language
                )


def hold(rng: Random, language: words.Language, kind: str) -> tuple[str, str]:
    """Draw one dialogue and its summary; a pure function of the state of `rng`."""
    outcome = rng.choice(KINDS[kind])
    alone = outcome != "taken over" and rng.random() >= WITH_A_THIRD
    present = ["asker", "asked"] if alone else ["asker", "asked", "third"]
    facts = _facts(rng, language)
    said = _chat(rng, language, present)
    said += [("asker", rng.choice(language.turns[kind]))]
    for step in COURSES[outcome]:
        who, _, what = step.partition(": ")
        said.append((who, rng.choice(language.turns[what])))
    said += _part(rng, language, present)
    turns = _joined([(who, text.format(**facts)) for who, text in said])
    numbers = {who: number for number, who in enumerate(dict.fromkeys(who for who, _ in turns))}
    text = "\n".join(f"{words.SPEAKERS[numbers[who]]}: {what}" for who, what in turns)
    return text, _summary(language, kind, outcome, facts, numbers)


def _facts(rng: Random, language: words.Language) -> dict[str, str]:
    """What the matter is about; most of it is not spoken of in any one dialogue."""
    day, other_day = rng.sample(language.days, 2)
    place, other_place = rng.sample(language.places, 2)
    item, the_item = rng.choice(language.items)
    detail = rng.randrange(len(language.details))
    tens = rng.choice(words.PRICES)
    return {
        "day": day,
        "other_day": other_day,
        "place": place,
        "other_place": other_place,
        "task": rng.choice(language.tasks),
        "reason": rng.choice(language.reasons),
        "item": item,
        "the_item": the_item,
        "detail": language.details[detail][0],
        "the_detail": language.details[detail][1],
        "token": words.DETAIL_TOKENS[detail],
        "purpose": rng.choice(language.purposes),
        "price": language.price.format(tens=tens),
        "lower": language.price.format(tens=tens - 1),
    }


def _chat(rng: Random, language: words.Language, present: list[str]) -> list[tuple[str, str]]:
    """One or two exchanges about matters of their own; a third person takes part in one of them."""
    exchanges = rng.sample(language.chat, rng.randint(1, 2))
    pairs: list[list[str]] = [rng.sample(["asker", "asked"], 2) for _ in exchanges]
    if "third" in present:
        pairs[rng.randrange(len(pairs))] = rng.sample(["third", rng.choice(("asker", "asked"))], 2)
    said = []
    for texts, pair in zip(exchanges, pairs, strict=True):
        aside = _facts(rng, language)
        said += [(who, text.format(**aside)) for who, text in zip(pair, texts, strict=True)]
    return said


def _part(rng: Random, language: words.Language, present: list[str]) -> list[tuple[str, str]]:
    others = [who for who in present if who != "asker"]
    chosen = sorted(rng.sample(range(len(language.closings)), rng.randint(0, 2)))
    pairs = [language.closings[place] for place in chosen]
    return [turn for first, second in pairs for turn in (("asker", first), (rng.choice(others), second))]


def _joined(said: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """One turn for what somebody says in one go."""
    turns: list[tuple[str, str]] = []
    for who, text in said:
        if turns and turns[-1][0] == who:
            turns[-1] = (who, f"{turns[-1][1]} {text}")
        else:
            turns.append((who, text))
    return turns


def _summary(language: words.Language, kind: str, outcome: str, facts: dict[str, str], numbers: dict[str, int]) -> str:
    people = {who: words.SPEAKERS[number] for who, number in numbers.items()}
    topics = {f"{who}_topic": language.topics[number] for who, number in numbers.items()}
    sentences = [language.summaries[key] for key in (kind, outcome) if key in language.summaries]
    return " ".join(sentences).format(**facts, **people, **topics)
