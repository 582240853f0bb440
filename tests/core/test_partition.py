"""Groups of neighbours under a budget of tokens: as cheap as the best of all ways, every row once."""

import numpy as np
import pytest
from partition_by_trial import cost, least_cost, tokens

from rtx_lab.core.partition import ROUNDED_TO, group_tokens, partition, rounded

CASES = [
    (rows, axes, budget, most_rows, per_group)
    for rows in (1, 2, 5, 9, 10)
    for axes in (1, 2)
    for budget in (60, 250, 100_000)
    for most_rows, per_group in ((99, 0), (99, 40), (3, 40))
]


def _lengths(rows, axes, seed):
    return np.random.default_rng(seed).integers(0, 60, (rows, axes))


@pytest.mark.parametrize(("rows", "axes", "budget", "most_rows", "per_group"), CASES)
def test_no_way_is_cheaper(rows, axes, budget, most_rows, per_group):
    for seed in range(3):
        lengths = _lengths(rows, axes, seed)
        if seed:
            lengths = lengths[np.lexsort(lengths.T)]
        groups = partition(lengths, budget, most_rows=most_rows, per_group=per_group)
        plain = [(group.start, group.stop) for group in groups]
        assert [row for start, stop in plain for row in range(start, stop)] == list(range(rows))
        assert all(
            stop - start == 1 or (tokens(lengths[start:stop]) <= budget and stop - start <= most_rows)
            for start, stop in plain
        )
        assert cost(lengths, plain, per_group) == least_cost(lengths, budget, most_rows, per_group)


def test_a_row_beyond_the_budget_stands_alone():
    groups = partition(np.array([[10, 5], [10, 5], [900, 100], [10, 5]]), 128)
    assert [(group.start, group.stop) for group in groups] == [(0, 2), (2, 3), (3, 4)]


def test_a_group_weighs_its_rows_at_the_longest_of_every_axis():
    lengths = np.array([[9, 3], [2, 17], [8, 8]])
    assert group_tokens(lengths) == 3 * (16 + 24) == tokens(lengths)
    assert rounded(np.array([0, 1, 8, 9])).tolist() == [0, ROUNDED_TO, ROUNDED_TO, 2 * ROUNDED_TO]


def test_dearer_groups_are_fewer():
    lengths = np.sort(np.random.default_rng(0).integers(10, 300, (200, 1)), axis=0)
    numbers = [len(partition(lengths, 4000, per_group=price)) for price in (0, 200, 1000, 10**9)]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] > numbers[-1]


def test_no_rows_are_no_groups():
    assert partition(np.zeros((0, 2), np.int64), 100) == []
