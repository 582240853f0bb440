"""A few test items with what every setting wrote, chosen by rule and not by eye."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from rtx_lab.report.choice import best_groups, experiment_names, leaf_of
from rtx_lab.report.document import Table
from rtx_lab.report.groups import Group
from rtx_lab.report.rouge import is_rouge, name_of
from rtx_lab.report.runs import is_number

MOST_SETTINGS = 8
_PLACES = ((0.1, "low"), (0.5, "middling"), (0.9, "high"))
"""Which items are shown: their rank by mean score, and what that is called."""
_MOST_SIGNS = 400

Records = Mapping[str, Mapping[str, Any]]


def examples_tables(groups: Sequence[Group]) -> list[Table]:
    """Return a table for each of up to three items per dataset: the reference, and what each setting wrote.

    Written by the first seed of each setting. The items stand at fixed ranks of the mean score over the settings.
    """
    tables = []
    for dataset in sorted({group.dataset for group in groups}):
        members = best_groups([group for group in groups if group.dataset == dataset], MOST_SETTINGS)
        written = {id(group): group.done[0].predictions() for group in members}
        told = [group for group in members if written[id(group)]]
        tables += _tables(dataset, told, written)
    return tables


def _tables(dataset: str, groups: Sequence[Group], written: Mapping[int, Records]) -> list[Table]:
    if not groups:
        return []
    names = experiment_names(groups)
    leaf = leaf_of(groups)
    shared = set.intersection(*(set(written[id(group)]) for group in groups))
    means = {item: score for item in shared if (score := _mean(item, leaf, groups, written)) is not None}
    ranked = sorted(means, key=lambda item: (means[item], item))
    chosen: dict[str, str] = {}
    for share, word in _PLACES if is_rouge(leaf) else ():
        if ranked:
            chosen.setdefault(ranked[round(share * (len(ranked) - 1))], word)
    return [_table(dataset, item, word, leaf, groups, written, names) for item, word in chosen.items()]


def _table(
    dataset: str,
    item: str,
    word: str,
    leaf: str,
    groups: Sequence[Group],
    written: Mapping[int, Records],
    names: Mapping[int, str],
) -> Table:
    first = written[id(groups[0])][item]
    rows = [["reference", _cut(first.get("gold")), "-"]]
    for group in groups:
        record = written[id(group)][item]
        score = record.get(leaf)
        rows.append([names[id(group)], _cut(record.get("prediction")), f"{score:.3f}" if is_number(score) else "-"])
    note = f"An item of {word} score; items are picked by rank of the mean score, not by eye. First seed of a setting."
    columns = ("by", "summary", name_of(leaf))
    return Table(
        title=f"Example {item} of {dataset}", columns=columns, rows=rows, note=note, numeric=frozenset(columns[2:])
    )


def _mean(item: str, leaf: str, groups: Sequence[Group], written: Mapping[int, Records]) -> float | None:
    scores = [written[id(group)][item].get(leaf) for group in groups]
    told = [float(score) for score in scores if is_number(score)]
    return fmean(told) if len(told) == len(scores) else None


def _cut(text: object) -> str:
    words = " ".join(str(text if text is not None else "-").split()) or "(empty)"
    return words if len(words) <= _MOST_SIGNS else f"{words[: _MOST_SIGNS - 3]}..."
