"""Small English stories, generated from a seed: a hero, what they carry, what goes wrong with it, and who helps.

A story has three to six sentences over a closed vocabulary (`story_words.py`): who the hero is, always; that they set
out with a thing of some colour, half the time; what happens to it, always; that a friend comes with a tool, three
times in four; how it is set right, always; how it ends, half the time. What a word is depends on others:
pronouns on names, homes and foods on animals, prepositions on places, tools and remedies on what went wrong, and names,
colours and things on where they stood before. Weather, moods, pastimes and whatever is said once only are drawn freely.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from rtx_lab.core.errors import UsageError
from rtx_lab.data import story_words as words
from rtx_lab.data.generated import DATA_SEED, SHARES, share
from rtx_lab.data.segments import MASK_RATIOS, SegmentDataset
from rtx_lab.data.tokenizers import load_tokenizer

STORIES_VERSION = 1
"""Raise when another story comes out for the same seed; a golden test tells when."""
STORY_ENTRIES = len(words.vocabulary())
MEAN_TOKENS = 51.5
"""Tokens of a story, as counted over 20,000."""
LIKELY = 0.5
PLACES = tuple((preposition, place) for preposition, places in words.PLACES.items() for place in places)


def stories(
    *,
    num_train: int = 20000,
    num_validation: int = 200,
    num_test: int = 500,
    data_seed: int = DATA_SEED,
    max_source_length: int = 128,
    packing: bool = True,
    mask_ratios: Sequence[float] = MASK_RATIOS,
    judge: str | None = None,
    vocab_size: int = STORY_ENTRIES,
) -> SegmentDataset:
    """Stories of 26 to 83 words, on average 51; the counts are stories per split, all of them scored.

    `data_seed` fixes the stories and has nothing to do with the seed of a run.
    """
    sizes = {"train": num_train, "validation": num_validation, "test": num_test}
    wrong = [f"dataset.num_{split} must be at least 1, not {size}." for split, size in sizes.items() if size < 1]
    if wrong:
        raise UsageError(*wrong)
    return SegmentDataset(
        name="stories",
        tokenizer=load_tokenizer("stories"),
        vocab_size=vocab_size,
        max_source_length=max_source_length,
        packing=packing,
        mask_ratios=tuple(mask_ratios),
        judge=judge,
        sources={split: GeneratedStories(seed=data_seed, split=split, num_stories=n) for split, n in sizes.items()},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedStories:
    """One split: story i is a pure function of (seed, split, i), and no story can be in two splits."""

    seed: int
    split: str
    num_stories: int

    def digest(self) -> str:
        parts = ["stories", STORIES_VERSION, self.seed, self.split, self.num_stories]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def size(self) -> tuple[int, int]:
        return self.num_stories, round(self.num_stories * MEAN_TOKENS)

    def documents(self) -> Iterator[str]:
        return (self.story(index) for index in range(self.num_stories))

    def story(self, index: int) -> str:
        """Draw until the digest of the text says that it belongs to this split."""
        rng = Random(f"{self.seed}/stories/{self.split}/{index}")
        while True:
            text = tell(rng)
            if share(text) in SHARES[self.split]:
                return text


@dataclass(frozen=True, slots=True)
class Animal:
    """Someone in a story, with the words that go with them."""

    name: str
    kind: str
    adjective: str
    they: str
    them: str
    their: str
    home: str
    food: str


def tell(rng: Random) -> str:
    """Draw one story; a pure function of the state of `rng`."""
    hero, friend = _cast(rng)
    thing = rng.choice(tuple(words.THINGS))
    colour = rng.choice(words.COLOURS)
    place = rng.choice(PLACES)
    sets_out, meets, ends = (rng.random() < LIKELY for _ in range(3))
    sentences = [_introduction(rng, hero)]
    if sets_out:
        sentences.append(_journey(rng, hero, colour, thing, place[1]))
    sentences.append(_trouble(rng, hero, colour, thing, place, known=sets_out))
    if meets:
        sentences.append(_meeting(rng, hero, friend, words.THINGS[thing][1]))
    sentences.append(_remedy(rng, hero, friend, colour, thing, known=meets))
    if ends:
        sentences.append(_ending(rng, hero, friend, colour, thing))
    return " ".join(sentences)


def _cast(rng: Random) -> tuple[Animal, Animal]:
    names = rng.sample(words.BOYS + words.GIRLS, 2)
    kinds = rng.sample(tuple(words.KINDS), 2)
    adjectives = rng.sample(words.ADJECTIVES, 2)
    first, second = (_animal(*one) for one in zip(names, kinds, adjectives, strict=True))
    return first, second


def _animal(name: str, kind: str, adjective: str) -> Animal:
    home, food = words.KINDS[kind]
    they, them, their = ("he", "him", "his") if name in words.BOYS else ("she", "her", "her")
    return Animal(name, kind, adjective, they, them, their, home, food)


def _introduction(rng: Random, hero: Animal) -> str:
    described = f"{_a(hero.adjective)} {hero.kind}"
    return rng.choice(
        (
            f"once there was {described} named {hero.name} .",
            f"in {_a(hero.home)} lived {described} named {hero.name} .",
            f"{hero.name} was {described} who lived in {_a(hero.home)} .",
            f"{hero.name} the {hero.adjective} {hero.kind} liked {hero.food} .",
        )
    )


def _journey(rng: Random, hero: Animal, colour: str, thing: str, place: str) -> str:
    day = f"one {rng.choice(words.WEATHERS)} {rng.choice(words.TIMES)}"
    return rng.choice(
        (
            f"{day} {hero.they} took {hero.their} {colour} {thing} to the {place} .",
            f"{day} {hero.name} went to the {place} with {_a(colour)} {thing} .",
            f"{day} the {hero.kind} carried {_a(colour)} {thing} to the {place} .",
        )
    )


def _trouble(rng: Random, hero: Animal, colour: str, thing: str, place: tuple[str, str], *, known: bool) -> str:
    problem, mood = words.THINGS[thing][0], rng.choice(words.UNHAPPY)
    if known:
        there = rng.choice(("but the", "there the", f"{place[0]} the {place[1]} the"))
        what = rng.choice((thing, f"{colour} {thing}"))
    else:
        there = rng.choice((f"one {rng.choice(words.TIMES)} {hero.their}", f"{place[0]} the {place[1]} {hero.their}"))
        what = f"{colour} {thing}"
    feels = rng.choice(
        (
            "",
            f" , and {rng.choice((hero.they, hero.name))} was {mood}",
            f" , so the {hero.adjective} {hero.kind} began to cry",
        )
    )
    return f"{there} {what} {problem}{feels} ."


def _meeting(rng: Random, hero: Animal, friend: Animal, tool: str) -> str:
    return rng.choice(
        (
            f"then {friend.name} the {friend.kind} came by with {_a(tool)} .",
            f"{friend.name} , {_a(friend.adjective)} {friend.kind} , saw {hero.them} and brought {_a(tool)} .",
            f"then {hero.they} met {hero.their} friend {friend.name} the {friend.kind} , who had {_a(tool)} .",
        )
    )


def _remedy(rng: Random, hero: Animal, friend: Animal, colour: str, thing: str, *, known: bool) -> str:
    _, tool, remedy = words.THINGS[thing]
    it = rng.choice(("it", f"the {thing}", f"the {colour} {thing}"))
    if known:
        who, what = rng.choice((friend.name, f"the {friend.kind}", "together they")), f"the {tool}"
    else:
        who, what = f"{hero.their} friend {friend.name} the {friend.kind}", _a(tool)
    return f"{who} {remedy.format(it=it, tool=what)} ."


def _ending(rng: Random, hero: Animal, friend: Animal, colour: str, thing: str) -> str:
    first, second = rng.sample(words.PASTIMES, 2)
    both = f"the {hero.kind} and the {friend.kind}"
    return rng.choice(
        (
            f"soon {hero.name} was {rng.choice(words.HAPPY)} again .",
            f"to thank {friend.them} , {hero.name} gave {friend.name} some {friend.food} .",
            f"then {both} ate {hero.food} in the {hero.home} .",
            f"{hero.name} gave the {thing} away , and now it belongs to {friend.name} the {friend.kind} .",
            f"then {hero.name} carried the {colour} {thing} home to the {hero.home} .",
            f"that {rng.choice(words.TIMES)} {both} {first} and {second} .",
        )
    )


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
