"""Word problems in the format of GSM8K: a question, a worked solution, `#### number`; 1 to 6 operations.

Families `sums` (gets, gives away: + and -) and `products` (also halves, times: * and /), taking turns; in each the
difficulties 1 to 6 come 6 : 5 : 4 : 3 : 2 : 1. All numbers are whole, positive and below 100; every operation changes
the number. The mix was fixed before any model was tuned on it.
"""

from __future__ import annotations

from random import Random

from rtx_lab.data.items import Item
from rtx_lab.data.words import NAMES, THINGS

FAMILIES = ("sums", "products")
DIFFICULTY_WEIGHTS = {1: 6, 2: 5, 3: 4, 4: 3, 5: 2, 6: 1}
LARGEST = 99
LARGEST_CHANGE = 20


def make_final(rng: Random, family: str, difficulty: int) -> Item:
    """Draw an item whose target is the number alone."""
    question, _, final = _problem(rng, family, difficulty)
    return Item(source=question, target=final, gold=final)


def make_rationale(rng: Random, family: str, difficulty: int) -> Item:
    """Draw an item whose target is the worked solution: `7 + 5 = 12 . 12 - 3 = 9 . #### 9`."""
    question, lines, final = _problem(rng, family, difficulty)
    return Item(source=question, target=" ".join([*lines, f"#### {final}"]), gold=final)


def _problem(rng: Random, family: str, difficulty: int) -> tuple[str, list[str], str]:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    have = rng.randint(2, 30)
    told, lines = [f"{name} has {have} {thing} ."], []
    for _ in range(difficulty):
        sentence, calculation, have = _change(rng, family, name, have)
        told.append(sentence)
        lines.append(f"{calculation} = {have} .")
    return " ".join([*told, f"how many {thing} has {name} now ?"]), lines, str(have)


def _change(rng: Random, family: str, name: str, have: int) -> tuple[str, str, int]:
    kinds = ["gets"] * (have < LARGEST) + ["gives"] * (have > 1)
    if family == "products":
        kinds += ["doubles"] * (2 * have <= LARGEST) + ["halves"] * (have % 2 == 0 and have > 1)
        kinds += ["times"] * (3 * have <= LARGEST)
    kind = rng.choice(kinds)
    if kind == "gets":
        more = rng.randint(1, min(LARGEST_CHANGE, LARGEST - have))
        return f"{name} gets {more} more .", f"{have} + {more}", have + more
    if kind == "gives":
        less = rng.randint(1, min(LARGEST_CHANGE, have - 1))
        return f"{name} gives away {less} .", f"{have} - {less}", have - less
    if kind == "halves":
        return f"{name} loses half .", f"{have} / 2", have // 2
    factor = 2 if kind == "doubles" else rng.randint(3, min(5, LARGEST // have))
    return f"{name} now has {factor} times as many .", f"{have} * {factor}", have * factor
