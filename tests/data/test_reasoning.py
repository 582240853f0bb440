from collections import Counter
from random import Random

import pytest
from solved_reasoning import answers

from rtx_lab.data import reasoning
from rtx_lab.data.words import NAMES

KINDS = [(family, difficulty) for family in reasoning.FAMILIES for difficulty in range(1, 7)]


def draw(family, difficulty, number):
    return [reasoning.make(Random(f"test/{index}"), family, difficulty) for index in range(number)]


def facts_of(source):
    return source.removesuffix(" ?").split(" . ")[:-1]


@pytest.mark.parametrize(("family", "difficulty"), KINDS)
def test_an_independent_solver_finds_exactly_the_marked_option(family, difficulty):
    for item in draw(family, difficulty, 40):
        assert answers(item.source) == {item.gold}
        assert item.target == item.gold == item.options[item.label]
        assert len(set(item.options)) == 4


@pytest.mark.parametrize(("family", "difficulty"), KINDS)
def test_every_fact_is_needed(family, difficulty):
    for item in draw(family, difficulty, 15):
        facts = facts_of(item.source)
        question = item.source.split(" . ")[-1]
        for left_out in range(len(facts)):
            rest = [fact for place, fact in enumerate(facts) if place != left_out]
            people = set(item.source.split()) & set(NAMES)
            assert len(answers(" . ".join([*rest, question]), people)) != 1


def test_the_number_of_facts_grows_with_difficulty():
    for family in reasoning.FAMILIES:
        counts = [{len(facts_of(item.source)) for item in draw(family, difficulty, 20)} for difficulty in range(1, 7)]
        assert all(len(count) == 1 for count in counts)
        assert [count.pop() - counts_before for count, counts_before in zip(counts, range(1, 7), strict=False)] == [
            {"relations": 0, "booleans": 1, "comparisons": 2}[family]
        ] * 6


def test_facts_have_constant_length():
    for family, difficulty in KINDS:
        lengths = {len(fact.split()) for item in draw(family, difficulty, 20) for fact in facts_of(item.source)[1:]}
        assert len(lengths) <= 1


@pytest.mark.parametrize(("family", "difficulty"), KINDS)
def test_options_alone_give_chance(family, difficulty):
    """The best guess from the set of options, learned on one half, is at chance on the other."""
    items = draw(family, difficulty, 4000)
    learned = Counter((frozenset(item.options) if family != "comparisons" else "", item.gold) for item in items[:2000])
    right = 0
    for item in items[2000:]:
        key = frozenset(item.options) if family != "comparisons" else ""
        right += max(sorted(item.options), key=lambda option: learned[key, option]) == item.gold
    assert right / 2000 < 0.25 + 4 * (0.25 * 0.75 / 2000) ** 0.5


@pytest.mark.parametrize("difficulty", range(1, 7))
def test_how_often_a_person_is_named_tells_nothing_of_the_top(difficulty):
    items = draw("comparisons", difficulty, 4000)
    for choose in (max, min):
        right = 0
        for item in items:
            counts = Counter(item.source.split())
            best = choose(counts[option] for option in item.options)
            tied = [option for option in item.options if counts[option] == best]
            right += (item.gold in tied) / len(tied)
        assert abs(right / 4000 - 0.25) < 0.035


def test_the_place_of_the_right_option_is_uniform():
    labels = Counter(item.label for family, difficulty in KINDS for item in draw(family, difficulty, 200))
    assert all(abs(count / 3600 - 0.25) < 0.03 for count in labels.values())


def test_random_trees_are_uniform():
    """Cayley: 4 labelled vertices have 16 trees."""
    trees = Counter(frozenset(reasoning.random_tree(Random(f"tree/{i}"), 4)) for i in range(8000))
    assert len(trees) == 16
    assert max(trees.values()) / min(trees.values()) < 1.5


def test_the_answer_is_not_said_outright():
    """In relations no answer can be read off as a phrase more often than its digits and sides occur by chance."""
    items = [item for difficulty in range(2, 7) for item in draw("relations", difficulty, 400)]
    said = sum(any(item.gold in fact for fact in facts_of(item.source)) for item in items) / len(items)
    other = sum(
        any(option in fact for fact in facts_of(item.source))
        for item in items
        for option in item.options
        if option != item.gold
    ) / (3 * len(items))
    assert said < other + 0.12


def test_the_vocabulary_of_people_is_small():
    assert len(reasoning.CLIMBERS) == 12
    assert set(reasoning.CLIMBERS) <= set(NAMES)
