"""Which earlier runs a phase takes its values or its weights from, and how the choice is made.

`inherit: {from: nd_ratio, keys: [model.num_slots]}` takes the values of the best finished group of runs of that phase
with the same model and dataset; `inherit: {from: weaver_sft, checkpoint: best}` takes weights. Selection uses
validation, as a mean over seeds; a tie goes to fewer parameters. From a batch study, whose arms differ in cost and not
in score, the arm that its report recommends is taken, unless the rule names a metric.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from rtx_lab.core.errors import UsageError
from rtx_lab.core.rundir import RunDir, signature
from rtx_lab.report.batch_arms import PHASE as BATCH_STUDY
from rtx_lab.sweep.likeness import most_alike, value_at
from rtx_lab.sweep.typed import command_of_parents

_RULE_KEYS = ("from", "keys", "checkpoint", "metric", "mode", "elsewhere")
Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of `inherit`."""

    phase: str
    keys: tuple[str, ...] = ()
    checkpoint: str | None = None
    metric: str | None = None
    """None: what the parent's task monitors, or the report's recommendation where the parent is a batch study."""
    mode: str = "max"
    elsewhere: str | None = None
    """`mean_rank`: what to do for a dataset that the parent phase does not hold."""

    @property
    def takes_recommendation(self) -> bool:
        """Whether the parent's report, and no metric, says which setting won."""
        return self.phase.startswith(BATCH_STUDY) and self.metric is None and self.checkpoint is None


@dataclass(frozen=True, slots=True)
class Parent:
    """A finished run that values or weights may come from."""

    config: dict[str, Any]
    result: dict[str, Any]
    run: RunDir


@dataclass(frozen=True, slots=True)
class Choice:
    """Values that a job inherits, and the record of how they were chosen for its result.json."""

    values: Values
    record: dict[str, Any]


def rules_of(node: Any) -> list[Rule]:
    """Read the `inherit` key of a phase. Raises UsageError for what is not a rule."""
    entries = [] if node is None else [node] if isinstance(node, Mapping) else node
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise UsageError("inherit must be a rule or a list of rules, as {from: nd_ratio, keys: [model.num_slots]}")
    return [_rule(dict(entry)) for entry in entries]


def _rule(entry: dict[str, Any]) -> Rule:
    for key in entry:
        if key not in _RULE_KEYS:
            near = difflib.get_close_matches(str(key), _RULE_KEYS, n=1)
            raise UsageError(
                f"inherit has no field `{key}`: " + (f"did you mean `{near[0]}`?" if near else "see README")
            )
    if not entry.get("from") or bool(entry.get("keys")) == bool(entry.get("checkpoint")):
        raise UsageError("an inherit rule names its phase and either keys or a checkpoint: {from: P, keys: [model.x]}")
    allowed = {"checkpoint": (None, "best", "last"), "mode": ("max", "min"), "elsewhere": (None, "mean_rank")}
    for key, values in allowed.items():
        if entry.get(key, values[0]) not in values:
            known = ", ".join(str(value) for value in values if value)
            raise UsageError(f"inherit.{key} must be one of {known}, got {entry[key]!r}")
    entry["phase"], entry["keys"] = entry.pop("from"), tuple(entry.get("keys") or ())
    rule = Rule(**entry)
    if rule.takes_recommendation and rule.elsewhere:
        raise UsageError("inherit.elsewhere ranks by a metric: name one, as {metric: step_time_s, mode: min}")
    return rule


def finished_runs(root: Path, phase: str) -> list[Parent]:
    """All done runs of a phase below the multirun folder, in name order."""
    found = []
    for path in sorted((root / phase).glob("*/config.yaml")):
        run = RunDir(path.parent)
        result = run.read_result()
        if result is not None and result.get("status") == "done":
            found.append(Parent(_read_config(path), result, run))
    return found


def was_started(rule: Rule, child: Mapping[str, Any], free: Iterable[str], root: Path) -> bool:
    """Whether any run that could be the child's parent was ever started, whichever way it ended."""
    configs = [_read_config(path) for path in sorted((root / rule.phase).glob("*/config.yaml"))]
    return bool(most_alike(rule.keys, child, free, configs))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: restore it or train that run again") from error
    return value if isinstance(value, dict) else {}


def possible_values(rule: Rule, child: Mapping[str, Any], free: Iterable[str], configs: Sequence[Any]) -> list[Values]:
    """Every distinct tuple of values that planned parents could pass on to this child."""
    found = [configs[i] for i in most_alike(rule.keys, child, free, configs)]
    if not found and rule.elsewhere:
        found = [configs[i] for i in most_alike(rule.keys, child, {*free, "dataset"}, configs)]
    return list({json.dumps(_values(rule, config)): _values(rule, config) for config in found}.values())


def choose(
    rule: Rule, child: Mapping[str, Any], free: Iterable[str], parents: Sequence[Parent], typed: Sequence[str] = ()
) -> Choice:
    """Choose what a job inherits from finished runs; `typed` is what the command line of the job says.

    Raises UsageError where there is none (with the command to run) or where the runs differ in more than the seed.
    """
    configs = [parent.config for parent in parents]
    found = [parents[i] for i in most_alike(rule.keys, child, free, configs)]
    if rule.checkpoint:
        return _weights(rule, child, found, typed)
    if found and rule.takes_recommendation:
        return _recommended(rule, found)
    if found:
        means = {key: fmean(_metric(rule, parent) for parent in group) for key, group in _groups(rule, found).items()}
        sign = 1.0 if rule.mode == "max" else -1.0
        return _choice(rule, found, {key: -sign * mean for key, mean in means.items()}, means, "mean over seeds")
    others = [parents[i] for i in most_alike(rule.keys, child, {*free, "dataset"}, configs)] if rule.elsewhere else []
    if not others:
        raise UsageError(_none_found(rule, child, typed))
    ranks = _mean_ranks(rule, others)
    return _choice(rule, others, ranks, ranks, f"mean rank over {', '.join(sorted({_dataset(p) for p in others}))}")


def _groups(rule: Rule, parents: Sequence[Parent]) -> dict[str, list[Parent]]:
    """Runs by the values that they would pass on; within a group they may differ in the seed alone."""
    groups: dict[str, list[Parent]] = {}
    for parent in parents:
        groups.setdefault(json.dumps(_values(rule, parent.config)), []).append(parent)
    for key, group in groups.items():
        if len({_identity(parent.config) for parent in group}) > 1:
            names = ", ".join(parent.run.path.name for parent in group)
            raise UsageError(
                f"several runs of phase {rule.phase} with {key} differ in more than the seed ({names}): remove some, "
                f"or give the values yourself, as {rule.keys[0]}=..."
            )
    return groups


def _recommended(rule: Rule, found: Sequence[Parent]) -> Choice:
    """What the report of a batch study recommends: the fastest arm not shown worse, the leanest of equally fast."""
    from rtx_lab.report.batch_winner import rank_arms

    arms = rank_arms(found[0].run.path.parent, {parent.run.path.name for parent in found})
    if not arms:
        raise UsageError(f"no run of phase {rule.phase} measured its speed: give {rule.keys[0]}=... yourself")
    place = {run.path.name: number for number, arm in enumerate(arms) for run in arm.group.runs}
    ranks = {key: place[group[0].run.path.name] for key, group in _groups(rule, found).items()}
    speeds = {key: arms[rank].mean("samples_per_s") for key, rank in ranks.items()}
    choice = _choice(rule, found, ranks, speeds, "the report's recommendation")
    return Choice(choice.values, choice.record | {"metric": "samples_per_s"})


def _mean_ranks(rule: Rule, parents: Sequence[Parent]) -> dict[str, float]:
    """Mean rank of each candidate over the datasets that hold it, best first; only candidates that all of them hold."""
    from scipy.stats import rankdata

    sign = 1.0 if rule.mode == "max" else -1.0
    by_set: dict[str, dict[str, float]] = {}
    for name in sorted({_dataset(parent) for parent in parents}):
        groups = _groups(rule, [parent for parent in parents if _dataset(parent) == name])
        by_set[name] = {key: fmean(sign * _metric(rule, parent) for parent in group) for key, group in groups.items()}
    common = sorted(set.intersection(*(set(means) for means in by_set.values())))
    if not common:
        raise UsageError(f"no setting of phase {rule.phase} was finished on every dataset: run that phase to its end")
    ranks = [rankdata([-means[key] for key in common]) for means in by_set.values()]
    return {key: fmean(float(rank[i]) for rank in ranks) for i, key in enumerate(common)}


def _choice(
    rule: Rule, parents: Sequence[Parent], cost: Mapping[str, float], shown: Mapping[str, float | None], by: str
) -> Choice:
    """The candidate of least cost; a tie goes to fewer parameters."""
    sizes = {
        key: min(int(p.result.get("parameters") or 0) for p in parents if json.dumps(_values(rule, p.config)) == key)
        for key in cost
    }
    best = min(cost, key=lambda key: (round(cost[key], 12), sizes[key], key))
    candidates = [
        {
            "values": json.loads(key),
            "score": shown[key],
            "parameters": sizes[key],
            "runs": [p.run.path.name for p in parents if json.dumps(_values(rule, p.config)) == key],
        }
        for key in sorted(cost, key=lambda key: (cost[key], sizes[key]))
    ]
    values = json.loads(best)
    record = {"phase": rule.phase, "chosen": values, "metric": _metric_name(rule, parents[0]), "by": by}
    return Choice(values, record | {"candidates": candidates})


def _weights(rule: Rule, child: Mapping[str, Any], found: Sequence[Parent], typed: Sequence[str]) -> Choice:
    """The run to start from: the one with the child's seed, else the only one."""
    same_seed = [parent for parent in found if parent.config.get("seed") == child.get("seed")]
    chosen = same_seed or list(found)
    if not chosen:
        raise UsageError(_none_found(rule, child, typed))
    if len(chosen) > 1:
        names = ", ".join(str(parent.run.path) for parent in chosen)
        raise UsageError(
            f"several runs of phase {rule.phase} could give the weights: choose with init_from=DIR of {names}"
        )
    place = chosen[0].run.path
    if rule.checkpoint == "last":
        place = sorted((place / "checkpoints").glob("step-*"))[-1]
    return Choice(
        {"init_from": str(place)}, {"phase": rule.phase, "chosen": {"init_from": str(place)}, "by": "weights"}
    )


def _none_found(rule: Rule, child: Mapping[str, Any], typed: Sequence[str]) -> str:
    dataset = str(child["dataset"].get("_target_", "")).rpartition(".")[2]
    given = " ".join(f"{key}=..." for key in rule.keys) or "init_from=DIR"
    command = command_of_parents(rule.phase, dataset, rule.keys, typed)
    return f"no finished run of phase {rule.phase} has this model and dataset: run `{command}` first, or give {given}"


def _metric_name(rule: Rule, parent: Parent) -> str:
    return rule.metric or str(parent.result.get("monitor") or "validation/accuracy")


def _metric(rule: Rule, parent: Parent) -> float:
    """A metric of a run, or what stands beside the metrics in its result: step_time_s, peak_memory_gb."""
    name = _metric_name(rule, parent)
    known = {**parent.result, **(parent.result.get("metrics") or {})}
    value = known.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise UsageError(f"{parent.run.path} has no metric {name}{hint}")
    return float(value)


def _values(rule: Rule, config: Mapping[str, Any]) -> Values:
    return {key: value_at(config, key) for key in rule.keys}


def _dataset(parent: Parent) -> str:
    return str(parent.config["dataset"].get("_target_", "")).rpartition(".")[2]


def _identity(config: Mapping[str, Any]) -> str:
    return signature({**config, "seed": 0})
