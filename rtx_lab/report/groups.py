"""Runs that differ in their seed alone are one group; groups that differ in one setting alone are a family."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from rtx_lab.core.labels import holds
from rtx_lab.core.rundir import readable
from rtx_lab.report.rouge import is_rouge
from rtx_lab.report.runs import Run
from rtx_lab.report.settings import Settings, flatten, label_of, symbol, title, value_text
from rtx_lab.scoring.intervals import mean_interval, wilson_interval

_NOT_COMPARED = frozenset({"dataset", "phase", "init_from", "resume_from"})
"""Settings under which the items or the origin differ: no factor of a comparison."""

_ALWAYS_SHOWN = _NOT_COMPARED | {"model", "model.d_model", "model.num_slots", "model.bilinear_rank", "model.connection"}
"""Settings that a label names where they vary, though never alone."""

_SHARES = ("accuracy", "exact_match", "bleu")
"""Metrics that end so lie between 0 and 1."""

FOLLOWS_MODEL = frozenset({"optim.lr", "budget.micro_batch", "budget.gradient_checkpointing"})
"""Settled by rule from the model, so that two models may differ in it and still be compared."""


@dataclass(frozen=True, slots=True)
class Group:
    """Replicates: runs that differ in their seed alone, in order of the seed.

    `factors` holds what varies among the groups shown, dotted key -> value; `label` says the same in words.
    """

    label: str
    factors: dict[str, Any]
    runs: tuple[Run, ...]
    settings: Settings = field(repr=False)

    @property
    def done(self) -> tuple[Run, ...]:
        """The runs that came to their end."""
        return tuple(run for run in self.runs if run.status == "done")

    @property
    def dataset(self) -> str:
        """The word of the dataset."""
        return str(self.settings.get("dataset", ""))

    def values(self, key: str) -> list[float]:
        """Return a metric of every finished run that has it, in order of the seed."""
        return [value for run in self.done if (value := run.metric(key)) is not None]

    def mean(self, key: str) -> float | None:
        """Return the mean of a metric over seeds, None where no finished run has it."""
        values = self.values(key)
        return fmean(values) if values else None

    def interval(self, key: str) -> tuple[float, float] | None:
        """Return the 95 % interval of the mean: over items, over seeds, or the wider of both where both are known.

        Over items: Wilson for an accuracy of items, else the interval in result.json, for several seeds the mean of
        theirs, which is never too narrow. Over seeds: Student's t, from two seeds on. Neither source of chance hides
        behind the other.
        """
        values = self.values(key)
        found = [span for span in (self._over_items(key, values), mean_interval(values)) if span is not None]
        widest = max(found, key=lambda span: span[1] - span[0]) if found else None
        is_share = key.endswith(_SHARES) or is_rouge(key.rpartition("/")[2])
        if widest is not None and is_share:  # Student's t knows no bounds
            return max(0.0, widest[0]), min(1.0, widest[1])
        return widest

    def _over_items(self, key: str, values: Sequence[float]) -> tuple[float, float] | None:
        if not values:
            return None
        if key.endswith("/accuracy") and not self._is_of_tokens(key):
            count = self.mean(key.removesuffix("accuracy") + "n")
            return wilson_interval(round(fmean(values) * count), round(count)) if count else None
        low, high = self.values(f"{key}_low"), self.values(f"{key}_high")
        return (fmean(low), fmean(high)) if len(values) == len(low) == len(high) else None

    def _is_of_tokens(self, key: str) -> bool:
        """An accuracy of hidden tokens: the n texts are the draws, and each holds many tokens."""
        return bool(self.values(key.removesuffix("accuracy") + "unigram_accuracy"))


@dataclass(frozen=True, slots=True)
class Factor:
    """A setting that was varied: `families` are groups equal in all but `key`, each in order of its value."""

    key: str
    title: str
    families: tuple[tuple[Group, ...], ...]
    labels: dict[str, str] = field(default_factory=dict)

    def text(self, group: Group) -> str:
        """Return the group's value in words, with the name that the phase gave it."""
        if self.key != "model":
            return _worded(self.key, group.settings.get(self.key), self.labels)
        return _join({key: group.factors[key] for key in group.factors if _is_model(key)}, self.labels)


def labels_of(runs: Iterable[Run], *studies: Mapping[str, Any]) -> dict[str, str]:
    """Collect the names that phases give to values, as far as they hold for all runs shown."""
    runs, labels = list(runs), {}
    for source in [*studies, *(run.config for run in runs)]:
        if isinstance(source.get("labels"), Mapping):
            labels |= {str(key): str(text) for key, text in source["labels"].items()}
    return {
        key.partition(" at ")[0]: text for key, text in labels.items() if all(holds(key, run.config) for run in runs)
    }


def group_runs(runs: Iterable[Run], labels: Mapping[str, str] | None = None) -> list[Group]:
    """Return the groups in order of what varies; runs without a readable config belong to none."""
    members: dict[str, list[Run]] = defaultdict(list)
    settings: dict[str, Settings] = {}
    for run in runs:
        if run.config:
            flat = flatten(run.config)
            key = identity(flat)
            members[key].append(run)
            settings[key] = flat
    varied = varying(list(settings.values()))
    shown = [key for key in varied if key in _ALWAYS_SHOWN or _is_swept(key, list(settings.values()))]
    groups = []
    for key, flat in settings.items():
        replicates = tuple(sorted(members[key], key=lambda run: (run.seed, run.name)))
        factors = {name: flat[name] for name in shown if flat.get(name) is not None}
        groups.append(Group(_label(factors, replicates[0], labels or {}), factors, replicates, flat))
    return sorted(_told_apart(groups, varied), key=lambda group: [_order(group.settings.get(key)) for key in varied])


def find_factors(groups: Sequence[Group], labels: Mapping[str, str] | None = None) -> list[Factor]:
    """Return what was varied while all else stayed equal, then `model` where whole models stand side by side."""
    factors = []
    for key in varying([group.settings for group in groups]):
        families = () if key in _NOT_COMPARED | {"model"} else _families(groups, key)
        if families:
            factors.append(Factor(key, _title(key, families), families, dict(labels or {})))
    models = _model_families(groups)
    if models:
        factors.append(Factor("model", title("model"), models, dict(labels or {})))
    return factors


def varying(settings: Sequence[Settings]) -> list[str]:
    """Return the keys whose value differs between runs of one model on one dataset, and `model`, `dataset`, `phase`."""
    cells: dict[tuple[Any, Any], list[Settings]] = defaultdict(list)
    for flat in settings:
        cells[flat.get("model"), flat.get("dataset")].append(flat)
    keys = {key for key in ("dataset", "model", "phase") if len({str(flat.get(key)) for flat in settings}) > 1}
    for cell in cells.values():
        for key in {key for flat in cell for key in flat}:
            if len({identity(flat.get(key)) for flat in cell}) > 1:
                keys.add(key)
    first = ("phase", "dataset", "model", "model.connection")
    return sorted(keys, key=lambda key: (first.index(key) if key in first else len(first), key))


def _is_swept(key: str, settings: Sequence[Settings]) -> bool:
    seen: dict[str, str] = {}
    for flat in settings:
        rest = identity({name: value for name, value in flat.items() if name != key})
        if seen.setdefault(rest, identity(flat.get(key))) != identity(flat.get(key)):
            return True
    return False


def _families(groups: Sequence[Group], key: str) -> tuple[tuple[Group, ...], ...]:
    families: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        families[identity({name: item for name, item in group.settings.items() if name != key})].append(group)
    ordered = (sorted(family, key=lambda group: _order(group.settings.get(key))) for family in families.values())
    return tuple(tuple(family) for family in ordered if len(family) > 1)


def _model_families(groups: Sequence[Group]) -> tuple[tuple[Group, ...], ...]:
    settings = [group.settings for group in groups]
    bundled = [key for key in varying(settings) if _is_model(key) and not _is_swept(key, settings)]
    families: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        kept = (key for key in group.settings if not _is_model(key) and key not in FOLLOWS_MODEL)
        families[identity({key: group.settings[key] for key in kept})].append(group)
    return tuple(
        tuple(family)
        for family in families.values()
        if len({identity([group.settings.get(key) for key in bundled]) for group in family}) > 1
    )


def _title(key: str, families: Iterable[tuple[Group, ...]]) -> str:
    """A number of slots means little without the width: N/D is what the studies speak of."""
    widths = {group.settings.get("model.d_model") for family in families for group in family}
    if key == "model.num_slots" and len(widths) == 1 and None not in widths:
        return f"{title(key)} (D = {widths.pop()})"
    return title(key)


def _label(factors: Mapping[str, Any], run: Run, labels: Mapping[str, str]) -> str:
    if not factors:
        return readable({**run.config, "seed": 0}).removesuffix("-seed0")
    return _join(factors, labels)


def _join(factors: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    signs = {key: f"{symbol(key)}=" if symbol(key) else "" for key in factors}
    return ", ".join(f"{signs[key]}{_worded(key, value, labels)}" for key, value in factors.items())


def _is_model(key: str) -> bool:
    return key.partition(".")[0] == "model"


def _worded(key: str, value: Any, labels: Mapping[str, str]) -> str:
    name = label_of(labels, key, value)
    return f"{value_text(value)} ({name})" if name else value_text(value)


def _told_apart(groups: list[Group], varied: Sequence[str]) -> list[Group]:
    """Add what else varies to the labels that two groups share."""
    sharing: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        sharing[group.label].append(group)
    result = []
    for label, same in sharing.items():
        keys = [key for key in varied if len({identity(group.settings.get(key)) for group in same}) > 1]
        for group in same:
            more = [f"{symbol(key) or title(key)}={value_text(group.settings.get(key))}" for key in keys]
            result.append(Group(", ".join([label, *more]), group.factors, group.runs, group.settings))
    return result


def identity(value: Any) -> str:
    """Return a text that is equal for equal settings; 1 and 1.0 are alike."""
    return json.dumps(_plain(value), sort_keys=True, default=str)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _order(value: Any) -> tuple[int, float, str]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 0, float(value), ""
    return 1, 0.0, value_text(value)
