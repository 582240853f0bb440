"""The arms of a batch study: settings of one model on one dataset with one global batch, cut in different ways."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rtx_lab.report.batch_runs import (
    SHARE,
    Look,
    Measures,
    best_look,
    measure,
    out_of_memory,
    reach,
    read_looks,
    shape_words,
    slope,
)
from rtx_lab.report.choice import leaf_of
from rtx_lab.report.groups import Group, identity, varying
from rtx_lab.report.pairing import lower_is_better
from rtx_lab.report.runs import Run, is_number
from rtx_lab.report.settings import label_of, symbol, value_text

PHASE = "batch_study"
_MICRO, _TOKENS = "budget.micro_batch", "budget.micro_tokens"
_UNNAMED = frozenset({_MICRO, _TOKENS, "budget.eval_batch", "phase", "model", "dataset"})
"""Settings that the name of an arm does not repeat; the evaluation's batch follows the micro-batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to cut the global batch: its runs, and what each finished one measured, in order of the seed."""

    name: str
    micro_batch: int | None
    group: Group
    measures: tuple[Measures, ...]
    looks: tuple[list[Look], ...]
    lines: tuple[list[dict[str, Any]], ...]
    leaf: str

    @property
    def shapes(self) -> list[str]:
        """Where memory ran out, in all runs, failed ones too."""
        return [f"seed {run.seed}, {shape_words(event)}" for run in self.group.runs for event in out_of_memory(run)]

    @property
    def num_oom(self) -> int | None:
        """How often memory ran out in all runs; None where no run left a record."""
        return len(self.shapes) if any(run.result for run in self.group.runs) else None

    def values(self, key: str) -> list[float]:
        """Return a quantity of every finished run that measured it."""
        return [value for found in self.measures if (value := found.get(key)) is not None]

    def by_seed(self, key: str) -> dict[int, float]:
        """Return a quantity by the seed of the run."""
        pairs = zip(self.group.done, self.measures, strict=True)
        return {run.seed: value for run, found in pairs if (value := found.get(key)) is not None}

    def mean(self, key: str) -> float | None:
        """Return the mean over seeds, None unless every finished run measured it: a mean of some runs would flatter."""
        values = self.values(key)
        return fmean(values) if values and len(values) == len(self.measures) else None

    def interval(self, key: str) -> tuple[float, float] | None:
        """Return the 95 % interval of the mean: Student's t over seeds; of scores that over items where it is wider."""
        from rtx_lab.scoring.intervals import mean_interval

        if self.mean(key) is None:
            return None
        if key in ("test_score", "validation_score"):
            return self.group.interval(f"{key.partition('_')[0]}/{self.leaf}")
        spans = [_over_items(looks, key, self.leaf) for looks in self.looks]
        known = [span for span in spans if span is not None]
        both = [mean_interval(self.values(key))]
        if known and len(known) == len(self.measures):
            both.append((fmean(low for low, _ in known), fmean(high for _, high in known)))
        return max((span for span in both if span), key=lambda span: span[1] - span[0], default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStudy:
    """All arms of one model, dataset and global batch; `untrained` is the score before training, where measured."""

    model: str
    dataset: str
    global_batch: int | None
    leaf: str
    arms: tuple[Arm, ...]
    target: float | None
    untrained: float | None
    on_cpu: bool

    @property
    def finished(self) -> list[Arm]:
        """The arms with a run that came to its end."""
        return [arm for arm in self.arms if arm.measures]

    @property
    def differ_otherwise(self) -> bool:
        """Whether arms differ in more than how the batch is cut, so that they may well reach other scores."""
        keys = set(varying([arm.group.settings for arm in self.arms]))
        return bool(keys - _UNNAMED)


def is_untrained(run: Run) -> bool:
    """Return whether a run is the job of a batch study that trains nothing and measures the untrained score."""
    budget = run.config.get("budget")
    steps = budget.get("steps") if isinstance(budget, Mapping) else None
    return steps == 0 and str(run.config.get("phase", "")).startswith(PHASE)


def find_batch_studies(groups: Iterable[Group], labels: Mapping[str, str]) -> list[BatchStudy]:
    """Return the studies among groups: those of phases named `batch_study...`, by model, data and global batch."""
    cells: dict[str, list[Group]] = {}
    for group in groups:
        if str(group.settings.get("phase", "")).startswith(PHASE):
            cells.setdefault(identity(_shared(group)), []).append(group)
    studies = (_study(cell, leaf_of(cell), labels) for cell in cells.values())
    return [study for study in studies if study is not None]


def _shared(group: Group) -> dict[str, Any]:
    sections = ("model", "dataset")
    kept = {key: value for key, value in group.settings.items() if key.partition(".")[0] in sections}
    return kept | {"global_batch": group.settings.get("budget.global_batch")}


def _study(groups: Sequence[Group], leaf: str, labels: Mapping[str, str]) -> BatchStudy | None:
    others = [group for group in groups if is_untrained(group.runs[0])]
    trained = [group for group in groups if not is_untrained(group.runs[0])]
    if not trained:
        return None
    scores = [value for group in others for value in group.values(f"validation/{leaf}")]
    untrained = fmean(scores) if scores else None
    lines = {id(group): [run.curve() for run in group.done] for group in trained}
    looks = {key: [read_looks(one, leaf) for one in runs] for key, runs in lines.items()}
    target = _target([one for runs in looks.values() for one in runs], leaf)
    arms = []
    for group, name in zip(trained, _names(trained, labels), strict=True):
        measures = []
        for run, one, seen in zip(group.done, lines[id(group)], looks[id(group)], strict=True):
            found = measure(run, one, leaf)
            measures.append(found | reach(seen, leaf, target) | {"gain_per_min": slope(found, seen, leaf, untrained)})
        arms.append(Arm(name=name, micro_batch=_micro(group), group=group, measures=tuple(measures), leaf=leaf,
                        looks=tuple(looks[id(group)]), lines=tuple(lines[id(group)])))  # fmt: skip
    first, total = trained[0], trained[0].settings.get("budget.global_batch")
    return BatchStudy(
        model=str(first.settings.get("model", "")), dataset=first.dataset, leaf=leaf, arms=tuple(arms), target=target,
        global_batch=total if isinstance(total, int) else None, untrained=untrained,
        on_cpu=any(group.settings.get("hardware.device") == "cpu" for group in trained),
    )  # fmt: skip


def _target(runs: Sequence[Sequence[Look]], leaf: str) -> float | None:
    """95 % of the best score that any run saw while training; of a loss, the loss that is 1/0.95 of the smallest."""
    best = best_look([look for looks in runs for look in looks], leaf)
    if best is None:
        return None
    return best.score / SHARE if lower_is_better(leaf) else best.score * SHARE


def _over_items(looks: Sequence[Look], key: str, leaf: str) -> tuple[float, float] | None:
    chosen = {"final_score": looks[-1] if looks else None, "best_score": best_look(looks, leaf)}.get(key)
    return chosen.span if chosen is not None else None


def _names(groups: Sequence[Group], labels: Mapping[str, str]) -> list[str]:
    """`8 x 8`, the phase's label before it, and as much more as tells the arms apart."""
    names = [_cut_name(group, labels) for group in groups]
    keys = [key for key in varying([group.settings for group in groups]) if key not in _UNNAMED]
    if "optim" in keys:  # two optimizers differ in what only one of them knows
        keys = [key for key in keys if not key.startswith("optim.")]
    for more in (keys, ["budget.eval_batch"]):
        if len(set(names)) == len(names):
            break
        names = [", ".join([name, *_told(group, more)]) for name, group in zip(names, groups, strict=True)]
    return names


def _told(group: Group, keys: Sequence[str]) -> list[str]:
    texts = []
    for key in keys:
        sign = symbol(key)
        value = group.settings.get(key)
        texts.append(f"{sign}={value_text(value)}" if sign else value_text(value))
    return texts


def _cut_name(group: Group, labels: Mapping[str, str]) -> str:
    micro, total, tokens = _micro(group), group.settings.get("budget.global_batch"), group.settings.get(_TOKENS)
    if micro is None or (tokens is not None and group.settings.get(_MICRO) is None):
        return f"{tokens} tokens" if tokens is not None else "micro-batch not recorded"
    counts = [run.result.get("num_processes") for run in group.runs]
    processes = next((count for count in counts if isinstance(count, int) and count > 0), 1)
    pieces = f" x {max(1, total // (micro * processes))}" if isinstance(total, int) else ""
    across = f" on {processes} GPUs" if processes > 1 else ""
    label, cut = label_of(labels, _MICRO, micro), f"{micro}{pieces}"
    name = label if cut in label else f"{label}: {cut}" if label else cut
    return f"{name}{across}"


def _micro(group: Group) -> int | None:
    """Samples of a micro-batch as configured; where it was left to the run, what the run found."""
    value = group.settings.get(_MICRO)
    if is_number(value):
        return int(value)
    for run in group.runs:
        for event in run.result.get("events") or []:
            if isinstance(event, Mapping) and event.get("event") == "micro_batch_found":
                return int(event["micro_batch"]) if is_number(event.get("micro_batch")) else None
    return None
