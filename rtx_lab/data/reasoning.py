"""Multiple choice that must be worked out: relational chains, boolean deduction, comparisons.

The mix was fixed before any model was tuned on it: the three families take turns, and in each the difficulties 1 to 6
come 6 : 5 : 4 : 3 : 2 : 1. Every fact of an item is needed: taking one away, or turning it round, leaves or makes
another answer. The options are the contents themselves and drawn so that they alone give chance, 1 in 4:

- relations: `cafe 2 left of bank . zoo 3 right of cafe . where is zoo from bank ?` -> `1 right`. As many facts as the
  difficulty, each 1 to 4 places further; the answer is uniform over what so many facts can reach (1 to 9 places to
  either side), and the options are two distances, each to the left and to the right.
- booleans: `al is lying . bo calls al honest . are al bo honest ?` -> `no no`. As many statements as the difficulty,
  each true exactly if its speaker is honest; asked are the speaker halfway and the last one, and the options are the
  four combinations.
- comparisons: `al above bo . cy below bo . al above di . who is top ?` -> `al`. Difficulty + 2 facts over difficulty
  + 3 people that form a uniformly random tree with a uniformly random top, in shuffled order, half of them turned
  round; the options are four of the people. (How often a person is named tells nothing of who is on top.)

The facts of a chain stand in its order: what grows with the difficulty is composition, not search.
"""

from __future__ import annotations

from random import Random

from rtx_lab.data.items import Item
from rtx_lab.data.words import NAMES, PLACES

FAMILIES = ("relations", "booleans", "comparisons")
DIFFICULTY_WEIGHTS = {1: 6, 2: 5, 3: 4, 4: 3, 5: 2, 6: 1}
LONGEST_STEP, LONGEST_DISTANCE = 4, 9
CLIMBERS = NAMES[:12]


def make(rng: Random, family: str, difficulty: int) -> Item:
    """Draw one item of a family; a pure function of the state of `rng`."""
    if family == "relations":
        return _relations(rng, difficulty)
    if family == "booleans":
        return _booleans(rng, difficulty)
    return _comparisons(rng, difficulty)


def _place(distance: int) -> str:
    return f"{abs(distance)} {'left' if distance < 0 else 'right'}"


def _relations(rng: Random, difficulty: int) -> Item:
    near, far = rng.sample(range(1, min(LONGEST_DISTANCE, LONGEST_STEP * difficulty) + 1), 2)
    total = rng.choice((-near, near))
    steps = [0]
    while sum(steps) != total:
        steps = [rng.choice((-1, 1)) * rng.randint(1, LONGEST_STEP) for _ in range(difficulty)]
    places = rng.sample(PLACES, difficulty + 1)
    facts = [
        f"{here} {_place(step)} of {there} ." for here, there, step in zip(places[1:], places, steps, strict=False)
    ]
    source = " ".join([*facts, f"where is {places[-1]} from {places[0]} ?"])
    options = [_place(distance) for distance in (-near, near, -far, far)]
    return _item(rng, source, _place(total), options)


def _booleans(rng: Random, difficulty: int) -> Item:
    names = rng.sample(NAMES, difficulty + 1)
    honest = [rng.random() < 0.5]
    facts = [f"{names[0]} is {_claim(honest[0])} ."]
    for speaker, about in zip(names[1:], names, strict=False):
        claims_honest = rng.random() < 0.5
        facts.append(f"{speaker} calls {about} {_claim(claims_honest)} .")
        honest.append(claims_honest == honest[-1])
    half = difficulty // 2
    source = " ".join([*facts, f"are {names[half]} {names[-1]} honest ?"])
    options = [f"{first} {second}" for first in ("yes", "no") for second in ("yes", "no")]
    return _item(rng, source, f"{_verdict(honest[half])} {_verdict(honest[-1])}", options)


def _claim(honest: bool) -> str:
    return "honest" if honest else "lying"


def _verdict(honest: bool) -> str:
    return "yes" if honest else "no"


def _comparisons(rng: Random, difficulty: int) -> Item:
    names = rng.sample(CLIMBERS, difficulty + 3)
    facts = []
    for upper, lower in random_tree(rng, len(names)):
        turned = rng.random() < 0.5
        facts.append(f"{names[lower]} below {names[upper]} ." if turned else f"{names[upper]} above {names[lower]} .")
    rng.shuffle(facts)
    options = [names[0], *rng.sample(names[1:], 3)]
    return _item(rng, " ".join([*facts, "who is top ?"]), names[0], options)


def random_tree(rng: Random, size: int) -> list[tuple[int, int]]:
    """A uniformly random labelled tree over 0 .. size-1 (Pruefer code) as (upper, lower) edges away from 0."""
    code = [rng.randrange(size) for _ in range(size - 2)]
    degree = [1 + code.count(node) for node in range(size)]
    neighbours: list[list[int]] = [[] for _ in range(size)]
    for node in code:
        leaf = degree.index(1)
        neighbours[leaf].append(node)
        neighbours[node].append(leaf)
        degree[leaf] -= 1
        degree[node] -= 1
    first, second = (node for node in range(size) if degree[node] == 1)
    neighbours[first].append(second)
    neighbours[second].append(first)
    edges, reached = [], [0]
    for upper in reached:
        for lower in neighbours[upper]:
            if lower not in reached:
                reached.append(lower)
                edges.append((upper, lower))
    return edges


def _item(rng: Random, source: str, answer: str, options: list[str]) -> Item:
    rng.shuffle(options)
    return Item(source=source, target=answer, gold=answer, options=tuple(options), label=options.index(answer))
