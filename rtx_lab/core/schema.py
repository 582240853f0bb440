"""The fixed sections of the configuration as types, and the one way from a composed config to a settled one.

`settle` turns what Hydra composed into what a run is identified by: every value concrete, every problem named. Imports
no torch until `hardware=auto` has to look at the machine, so that `--help` stays light.
"""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rtx_lab.core.components import (
    check_component,
    locate,
    model_problems,
    nulls_of,
    pairing_problems,
    refused_settings,
    task_of,
)
from rtx_lab.core.errors import UsageError
from rtx_lab.core.rundir import parent_identity, readable, signature
from rtx_lab.core.sections import Budget, Generation, Hardware, Ltpo, Tracking
from rtx_lab.core.shapes import shapes_of

COMPONENTS = ("model", "dataset", "optim", "task")
"""Sections that name a Python target of ours and its arguments."""

SEED_WIDTH, SEED_LR = 256, 1e-4
"""Width of `bilinear_base` and its learning rate; a narrower model learns at SEED_LR x (SEED_WIDTH / d_model)^2."""


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """Everything that one run is told. Nothing below `run.py` sees it whole."""

    model: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    optim: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    hardware: Hardware = field(default_factory=Hardware)
    budget: Budget = field(default_factory=Budget)
    generation: Generation = field(default_factory=Generation)
    ltpo: Ltpo = field(default_factory=Ltpo)
    tracking: Tracking = field(default_factory=Tracking)
    phase: str = "main"
    seed: int = 42
    init_from: str | None = None  # weights of a run or folder
    resume_from: str | None = None  # weights, optimizer and step of a run or checkpoint
    plan: bool = False  # print what would be done, touch nothing
    run_anyway: bool = False  # run what the gate would refuse or skip
    inherit: Any = None  # values or weights from an earlier phase: rtx_lab.sweep.parents
    expect: list[Any] = field(default_factory=list)  # claims that the report judges
    labels: dict[str, Any] = field(default_factory=dict)  # names for values in tables, as `model.num_slots=64: 4to1`
    exclusive: bool = False  # measures time or memory: one job per device


@dataclass(frozen=True, slots=True)
class Settled:
    """A config with every value concrete, and the identity that follows from it."""

    config: dict[str, Any]
    run: RunConfig

    @property
    def signature(self) -> str:
        parents = {
            key: parent_identity(place) for key in ("init_from", "resume_from") if (place := self.config.get(key))
        }
        return signature({**self.config, **parents})

    @property
    def directory(self) -> str:
        """Below `multirun/`: `<phase>/<readable>-<signature>`."""
        return f"{self.run.phase}/{readable(self.config)}-{self.signature}"


def settle(
    config: DictConfig | dict[str, Any], range_problems: Callable[[dict[str, Any]], list[str]] = lambda _: []
) -> Settled:
    """Check a composed config whole and make every value concrete.

    `range_problems` may look at the components, once their keys and types are right, and add what is out of range.
    Raises UsageError with all problems at once: unknown keys, wrong types, values out of range.
    """
    problems: list[str] = []
    plain = _plain(config, problems)
    wrong = _fill_components(plain)
    sections = {name: _section(name, kind, plain, problems) for name, kind in _SECTIONS.items()}
    wrong += [problem for name in COMPONENTS for problem in check_component(name, plain.get(name) or {})]
    problems += wrong or _mismatches(plain)
    problems += [] if wrong else range_problems(plain)
    scalars = _section("", RunConfig, {"": {k: v for k, v in plain.items() if k in _SCALARS}}, problems)
    if scalars is not None and not 0 <= scalars.seed < 2**63:
        problems.append(f"seed must be 0 to {2**63 - 1}, got {scalars.seed}")
    if problems or scalars is None:
        raise UsageError(*problems)
    components = {name: dict(plain[name]) for name in COMPONENTS}
    rest = {name: getattr(scalars, name) for name in _SCALARS}
    run = RunConfig(**components, **sections, **rest)  # type: ignore[arg-type]
    _fill(run)
    settled = {f.name: _as_plain(getattr(run, f.name)) for f in fields(RunConfig)}
    return Settled(config=settled, run=run)


_SECTIONS = {"hardware": Hardware, "budget": Budget, "generation": Generation, "ltpo": Ltpo, "tracking": Tracking}
_SCALARS = (
    *("phase", "seed", "init_from", "resume_from", "plan", "run_anyway"),
    *("inherit", "expect", "labels", "exclusive"),
)


def _plain(config: DictConfig | dict[str, Any], problems: list[str]) -> dict[str, Any]:
    plain = plain_of(config) if isinstance(config, DictConfig) else config
    names = [f.name for f in fields(RunConfig)]
    for key in plain:
        if key not in names:
            problems.append(f"unknown key `{key}`{_nearest(str(key), names)}")
    return {str(key): value for key, value in plain.items()}


def plain_of(config: DictConfig) -> dict[str, Any]:
    """A composed config without Hydra's own node, as plain values. Raises UsageError for what cannot be resolved."""
    try:
        return {str(key): _resolved(config, key) for key in config if key != "hydra"}
    except OmegaConfBaseException as error:
        raise UsageError(str(error).splitlines()[0]) from error


def _resolved(config: DictConfig, key: Any) -> Any:
    value = config[key]
    return OmegaConf.to_container(value, resolve=True, throw_on_missing=True) if OmegaConf.is_config(value) else value


def _section(name: str, kind: type, plain: dict[str, Any], problems: list[str]) -> Any:
    """Turn a plain section into its dataclass; typos and types are problems, and so are values out of range."""
    known = [f.name for f in fields(kind)]
    prefix = f"{name}." if name else ""
    values: dict[str, Any] = {}
    before = len(problems)
    for key, value in (plain.get(name) or {}).items():
        if key not in known:
            problems.append(f"unknown key `{prefix}{key}`{_nearest(key, known, prefix)}")
            continue
        converted, problem = _convert(kind, key, value)
        values[key] = copy.deepcopy(converted)
        problems += [f"{prefix}{key}: {problem}"] * bool(problem)
    if len(problems) > before:
        return None
    section: Any = kind(**values)
    problems += section.problems() if name else []
    return section


_CONVERTED: dict[tuple[type, str, str], tuple[Any, str]] = {}
"""What OmegaConf made of a value; a sweep of hundreds of jobs asks for the same few again and again."""


def _convert(kind: type, key: str, value: Any) -> tuple[Any, str]:
    """The value in the type of its field, or why it cannot be that."""
    asked = (kind, key, repr(value))
    if asked not in _CONVERTED:
        node = OmegaConf.structured(kind)
        try:
            OmegaConf.update(node, key, value, merge=False)
            _CONVERTED[asked] = (getattr(OmegaConf.to_object(node), key), "")
        except OmegaConfBaseException as error:
            _CONVERTED[asked] = (None, str(error).splitlines()[0])
    return _CONVERTED[asked]


def _fill_components(plain: dict[str, Any]) -> list[str]:
    """The task follows the model, the vocabulary the dataset, the learning rate the width below the seed's own.

    Returns what keeps a model's shapes from being known.
    """
    model, dataset, optim = (dict(plain.get(name) or {}) for name in ("model", "dataset", "optim"))
    problems = _fill_shapes(model)
    _fill_tokenizer(model, dataset)
    dataset.update(nulls_of(dataset))
    if model.get("vocab_size", 0) is None:
        model["vocab_size"] = dataset.get("vocab_size")
    if optim.get("lr", 0) is None:
        optim["lr"] = SEED_LR * max(1.0, (SEED_WIDTH / _width(model)) ** 2)
    plain.update(model=model, dataset=dataset, optim=optim)
    if not plain.get("task"):
        plain["task"] = task_of(model)
    return problems


def _fill_shapes(model: dict[str, Any]) -> list[str]:
    """A checkpoint's folder says its shapes, where the model's target knows their names (`shape_keys`)."""
    if model.get("d_model", 0) is not None:
        return []
    try:
        keys = getattr(locate(str(model.get("_target_"))), "shape_keys", None)
        shapes = shapes_of(model.get("checkpoint"), keys) if keys else {}
    except UsageError as error:
        return list(error.problems)
    model.update({key: value for key, value in shapes.items() if model.get(key, ...) is None})
    return []


def _fill_tokenizer(model: dict[str, Any], dataset: dict[str, Any]) -> None:
    """A pretrained model brings its tokenizer along, which dataset.special_tokens extend."""
    if dataset.get("tokenizer", "") is None:
        dataset["tokenizer"] = model.get("tokenizer") or model.get("checkpoint")
    known, extra = model.get("tokenizer_size"), dataset.get("special_tokens", [])
    if dataset.get("vocab_size", 0) is None and isinstance(known, int) and isinstance(extra, list):
        dataset["vocab_size"] = known + len(extra)


def _mismatches(plain: dict[str, Any]) -> list[str]:
    """What is wrong between components that are right alone."""
    task, dataset = plain["task"], plain["dataset"]
    pairs = [*_vocabulary_problems(plain), *_tokenizer_problems(plain), *pairing_problems(task, dataset)]
    return [*pairs, *model_problems(task, plain["model"]), *refused_settings(task, plain)]


def _tokenizer_problems(plain: dict[str, Any]) -> list[str]:
    """A dataset of a closed vocabulary cannot be read by a model that brings its own tokenizer."""
    model, dataset = plain["model"], plain["dataset"]
    own = model.get("tokenizer") or model.get("checkpoint")
    if own is None or "tokenizer" in dataset:
        return []
    name = str(dataset["_target_"]).rpartition(".")[2]
    return [f"dataset={name} has a vocabulary of its own, and this model reads that of {own}: choose another dataset"]


def _vocabulary_problems(plain: dict[str, Any]) -> list[str]:
    known, needed = plain["model"].get("vocab_size"), plain["dataset"].get("vocab_size")
    if isinstance(known, int) and isinstance(needed, int) and known < needed:
        return [
            f"model.vocab_size={known} does not cover the {needed} entries of the dataset's tokenizer: leave it null"
        ]
    return []


def _width(model: dict[str, Any]) -> int:
    width = model.get("d_model")
    return width if isinstance(width, int) and width > 0 else SEED_WIDTH


def _fill(run: RunConfig) -> None:
    """Replace nulls and `auto` by what they mean for this model and machine."""
    width = _width(run.model)
    budget = run.budget
    if budget.steps is not None:
        budget.epochs = None
    if budget.micro_batch is None and budget.micro_tokens is None:
        usual = 64 if width < SEED_WIDTH else 32 if width < 2 * SEED_WIDTH else 16
        budget.micro_batch = _largest_divisor(budget.global_batch, usual)
    if budget.eval_batch is None:
        given = budget.micro_batch if budget.micro_tokens is None else budget.global_batch
        budget.eval_batch = 64 if given == "auto" else 2 * int(given or 1)
    own = run.hardware
    if own.device == "auto" or None in (own.precision, own.num_threads, own.memory_gb):
        _look_at_machine(own)
    if run.init_from is not None:
        run.init_from = os.path.normpath(run.init_from)
    if run.resume_from is not None:
        run.resume_from = os.path.normpath(run.resume_from)


def _look_at_machine(hardware: Hardware) -> None:
    from rtx_lab.core.device import detect

    found = detect(hardware.device)
    for key, value in found.items():
        if getattr(hardware, key) in (None, "auto"):
            setattr(hardware, key, value)


def _as_plain(value: Any) -> Any:
    if hasattr(type(value), "__dataclass_fields__"):
        return {f.name: _as_plain(getattr(value, f.name)) for f in fields(value)}
    return value


def _nearest(key: str, names: list[Any], prefix: str = "") -> str:
    match = difflib.get_close_matches(key, [str(name) for name in names], n=1)
    return f": did you mean `{prefix}{match[0]}`?" if match else f"; known: {', '.join(str(name) for name in names)}"


def _largest_divisor(number: int, limit: int) -> int:
    return max(d for d in range(1, min(number, limit) + 1) if number % d == 0)


def run_dir(_root_: DictConfig) -> str:
    """The only resolver of ours: where a composed config's run stands below `multirun/`."""
    return settle(_root_).directory
