"""Slow twin of the puzzles: read the text as a person would and search, knowing nothing of how it was made."""

from itertools import product


def answers(source: str, people: set[str] = frozenset()) -> set[str]:
    """Every answer that the facts of a source allow; `people` are there even when no fact names them."""
    *facts, question = [part.split() for part in source.removesuffix(" ?").split(" . ")]
    if question[0] == "where":
        return _places(facts, question[4], question[2])
    if question[0] == "are":
        return _honest(facts, question[1], question[2])
    return _tops(facts, people)


def _places(facts, origin, wanted):
    known = {origin: 0}
    for _ in facts:
        for here, count, side, _, there in facts:
            step = int(count) if side == "right" else -int(count)
            if there in known:
                known[here] = known[there] + step
            elif here in known:
                known[there] = known[here] - step
    if wanted not in known:
        return set()
    return {f"{abs(known[wanted])} {'left' if known[wanted] < 0 else 'right'}"}


def _honest(facts, first, second):
    people = sorted({first, second} | {fact[0] for fact in facts} | {fact[2] for fact in facts if fact[1] == "calls"})
    found = set()
    for truth in product((True, False), repeat=len(people)):
        honest = dict(zip(people, truth, strict=False))
        if all(_agrees(fact, honest) for fact in facts):
            found.add(" ".join("yes" if honest[name] else "no" for name in (first, second)))
    return found


def _agrees(fact, honest):
    if fact[1] == "is":
        return honest[fact[0]] == (fact[2] == "honest")
    return honest[fact[0]] == (honest[fact[2]] == (fact[3] == "honest"))


def _tops(facts, people):
    people = people | {fact[0] for fact in facts} | {fact[2] for fact in facts}
    lower = {fact[2] if fact[1] == "above" else fact[0] for fact in facts}
    return people - lower
