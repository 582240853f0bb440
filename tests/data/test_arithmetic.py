from random import Random

import pytest

from rtx_lab.data import arithmetic

KINDS = [(family, difficulty) for family in arithmetic.FAMILIES for difficulty in range(1, 7)]
CHANGES = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a // b}


@pytest.mark.parametrize(("family", "difficulty"), KINDS)
def test_the_solution_is_right_and_follows_the_story(family, difficulty):
    for seed in range(60):
        item = arithmetic.make_rationale(Random(seed), family, difficulty)
        *lines, final = item.target.split(" . ")
        assert len(lines) == difficulty
        have = int(item.source.split()[2])
        for line in lines:
            left, sign, right, _, result = line.split()
            assert int(left) == have
            have = CHANGES[sign](have, int(right))
            assert have == int(result)
            assert 0 <= have <= arithmetic.LARGEST
            assert have != int(left)
        assert final == f"#### {have}" == f"#### {item.gold}"


def test_both_targets_ask_the_same_questions():
    for family, difficulty in KINDS:
        long = arithmetic.make_rationale(Random(3), family, difficulty)
        short = arithmetic.make_final(Random(3), family, difficulty)
        assert (long.source, long.gold) == (short.source, short.target)


def test_only_products_multiply():
    for family, difficulty in KINDS:
        told = " ".join(arithmetic.make_rationale(Random(seed), family, difficulty).target for seed in range(60))
        assert ("*" in told or "/" in told) == (family == "products")
