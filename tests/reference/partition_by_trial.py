"""Every way to cut rows into neighbouring groups, tried one after another."""

from __future__ import annotations

import itertools


def ways(num_rows):
    """All lists of (start, stop) that cover 0 .. num_rows in order."""
    for inner in itertools.chain.from_iterable(
        itertools.combinations(range(1, num_rows), size) for size in range(num_rows)
    ):
        ends = [0, *inner, num_rows]
        yield list(itertools.pairwise(ends))


def tokens(rows):
    """What a group takes with its padding, every length rounded up to a multiple of 8."""
    return len(rows) * sum(max(-(-row[axis] // 8) * 8 for row in rows) for axis in range(len(rows[0])))


def cost(rows, groups, per_group):
    return sum(tokens(rows[start:stop]) + per_group for start, stop in groups)


def least_cost(rows, budget, most_rows, per_group):
    """The cost of the best way that is allowed: within the budget, or a row by itself."""
    return min(
        cost(rows, groups, per_group)
        for groups in ways(len(rows))
        if all(
            stop - start == 1 or (tokens(rows[start:stop]) <= budget and stop - start <= most_rows)
            for start, stop in groups
        )
    )
