"""The fixed sections of the configuration as types, and the one way from a composed config to a settled one.

`settle` turns what Hydra composed into what a run is identified by: every value concrete, every problem named. Imports
no torch until `hardware=auto` has to look at the machine, so that `--help` stays light.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rtx_lab.core.components import check_component
from rtx_lab.core.errors import UsageError
from rtx_lab.core.rundir import readable, signature

COMPONENTS = ("model", "dataset", "optim", "task")
"""Sections that name a Python target of ours and its arguments."""

SEED_WIDTH, SEED_LR = 256, 1e-4
"""Width of `bilinear_base` and its learning rate; a narrower model learns at SEED_LR x (SEED_WIDTH / d_model)^2."""


@dataclass(kw_only=True, slots=True)
class Budget:
    """How much to train, in what pieces, and how often to look."""

    global_batch: int = 64
    micro_batch: Any = None  # a number, `auto`, or null: 32, and 16 from width 512 on
    eval_batch: int | None = None  # null: twice the micro-batch
    epochs: float | None = 20.0
    steps: int | None = None  # optimizer steps; wins over epochs
    log_every: int = 50
    eval_every: int = 500
    checkpoint_every: Any = 500  # steps, or `epoch`
    patience: int = 5  # evaluations without a better monitor
    keep_last: int = 3
    gradient_checkpointing: bool = False

    def problems(self) -> list[str]:
        found = [
            _positive(f"budget.{name}", getattr(self, name)) for name in ("global_batch", "log_every", "eval_every")
        ]
        found += [_positive(f"budget.{name}", getattr(self, name)) for name in ("keep_last", "patience")]
        found += [_positive("budget.eval_batch", self.eval_batch)]
        if self.checkpoint_every != "epoch":
            found.append(_positive("budget.checkpoint_every", self.checkpoint_every, "a number of steps or `epoch`"))
        if self.micro_batch != "auto":
            found.append(_positive("budget.micro_batch", self.micro_batch, "a positive integer or `auto`"))
        if self.epochs is None and self.steps is None:
            found.append("budget.epochs and budget.steps are both null: give one of them")
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            found.append(f"budget.epochs must be a positive number, got {self.epochs}")
        if self.steps is not None and self.steps < 0:
            found.append(f"budget.steps must be 0 (evaluate only) or more, got {self.steps}")
        return [problem for problem in found if problem] or self._division()

    def _division(self) -> list[str]:
        micro = self.micro_batch
        if micro in (None, "auto") or self.global_batch % micro == 0:
            return []
        near = _divisors_near(self.global_batch, micro)
        return [f"budget.micro_batch={micro} does not divide budget.global_batch={self.global_batch}: use {near}"]


@dataclass(kw_only=True, slots=True)
class Hardware:
    """The machine that a run is meant for. Nulls are filled by looking at this machine (`hardware=auto`)."""

    name: str = "auto"
    device: str = "auto"  # cpu | cuda | auto
    memory_gb: float | None = None
    precision: str | None = None  # fp32 | bf16 | fp16
    compile: bool = False
    num_workers: int | None = None
    num_threads: int | None = None
    deterministic: bool = False
    power_w: float | None = None
    peak_tflops: float | None = None
    bandwidth_gb_s: float | None = None

    def problems(self) -> list[str]:
        found = [
            _choice("hardware.device", self.device, ("cpu", "cuda", "auto")),
            _choice("hardware.precision", self.precision, ("fp32", "bf16", "fp16", None)),
            _positive("hardware.num_threads", self.num_threads),
        ]
        if self.num_workers is not None and not 0 <= self.num_workers <= 256:
            found.append(f"hardware.num_workers must be 0 to 256, got {self.num_workers}")
        for name in ("memory_gb", "power_w", "peak_tflops", "bandwidth_gb_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                found.append(f"hardware.{name} must be a positive number, got {value}")
        return [problem for problem in found if problem]


@dataclass(kw_only=True, slots=True)
class Generation:
    """How answers are written where no options are given."""

    num_beams: int = 1
    max_new_tokens: int | None = None  # null: the dataset's longest target
    length_penalty: float = 1.0

    def problems(self) -> list[str]:
        found = [
            _positive("generation.num_beams", self.num_beams),
            _positive("generation.max_new_tokens", self.max_new_tokens),
        ]
        if not math.isfinite(self.length_penalty):
            found.append(f"generation.length_penalty must be a finite number, got {self.length_penalty}")
        return [problem for problem in found if problem]


@dataclass(kw_only=True, slots=True)
class Tracking:
    """Where curves go besides metrics.jsonl. Never part of a run's identity."""

    wandb: str = "off"  # off | offline | online
    tensorboard: bool = True
    project: str = "rtx_lab"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        problem = _choice("tracking.wandb", self.wandb, ("off", "offline", "online"))
        return [problem] if problem else []


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
    tracking: Tracking = field(default_factory=Tracking)
    phase: str = "main"
    seed: int = 42
    init_from: str | None = None  # weights of a run or folder
    resume_from: str | None = None  # weights, optimizer and step of a run or checkpoint
    plan: bool = False  # print what would be done, touch nothing
    run_anyway: bool = False  # run what the gate would refuse or skip


@dataclass(frozen=True, slots=True)
class Settled:
    """A config with every value concrete, and the identity that follows from it."""

    config: dict[str, Any]
    run: RunConfig

    @property
    def signature(self) -> str:
        return signature(self.config)

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
    _fill_components(plain)
    sections = {name: _section(name, kind, plain, problems) for name, kind in _SECTIONS.items()}
    wrong = [problem for name in COMPONENTS for problem in check_component(name, plain.get(name) or {})]
    problems += wrong or [*_vocabulary_problems(plain), *range_problems(plain)]
    scalars = _section("", RunConfig, {"": {k: v for k, v in plain.items() if k in _SCALARS}}, problems)
    if problems or scalars is None:
        raise UsageError(*problems)
    components = {name: dict(plain[name]) for name in COMPONENTS}
    rest = {name: getattr(scalars, name) for name in _SCALARS}
    run = RunConfig(**components, **sections, **rest)  # type: ignore[arg-type]
    _fill(run)
    settled = {f.name: _as_plain(getattr(run, f.name)) for f in fields(RunConfig)}
    return Settled(config=settled, run=run)


_SECTIONS = {"hardware": Hardware, "budget": Budget, "generation": Generation, "tracking": Tracking}
_SCALARS = ("phase", "seed", "init_from", "resume_from", "plan", "run_anyway")


def _plain(config: DictConfig | dict[str, Any], problems: list[str]) -> dict[str, Any]:
    if isinstance(config, DictConfig):
        own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        try:
            plain = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            raise UsageError(str(error).splitlines()[0]) from error
    else:
        plain = config
    assert isinstance(plain, dict)
    names = [f.name for f in fields(RunConfig)]
    for key in plain:
        if key not in names:
            problems.append(f"unknown key `{key}`{_nearest(str(key), names)}")
    return {str(key): value for key, value in plain.items()}


def _section(name: str, kind: type, plain: dict[str, Any], problems: list[str]) -> Any:
    """Merge a plain section into its dataclass; typos and types are problems, and so are values out of range."""
    node = OmegaConf.structured(kind)
    OmegaConf.set_struct(node, True)
    prefix = f"{name}." if name else ""
    before = len(problems)
    for key, value in (plain.get(name) or {}).items():
        if key not in node:
            problems.append(f"unknown key `{prefix}{key}`{_nearest(key, list(node), prefix)}")
            continue
        try:
            OmegaConf.update(node, key, value, merge=False)
        except OmegaConfBaseException as error:
            problems.append(f"{prefix}{key}: {str(error).splitlines()[0]}")
    if len(problems) > before:
        return None
    section: Any = OmegaConf.to_object(node)
    problems += section.problems() if name else []
    return section


def _fill_components(plain: dict[str, Any]) -> None:
    """The vocabulary follows the dataset; the learning rate follows the width below the seed's own."""
    model, dataset, optim = (dict(plain.get(name) or {}) for name in ("model", "dataset", "optim"))
    if model.get("vocab_size", 0) is None:
        model["vocab_size"] = dataset.get("vocab_size")
    if optim.get("lr", 0) is None:
        optim["lr"] = SEED_LR * max(1.0, (SEED_WIDTH / _width(model)) ** 2)
    plain.update(model=model, dataset=dataset, optim=optim)


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
    if budget.micro_batch is None:
        budget.micro_batch = _largest_divisor(budget.global_batch, 16 if width >= 512 else 32)
    if budget.eval_batch is None:
        budget.eval_batch = 64 if budget.micro_batch == "auto" else 2 * budget.micro_batch
    if run.hardware.device == "auto" or None in (
        run.hardware.precision,
        run.hardware.num_threads,
        run.hardware.memory_gb,
    ):
        _look_at_machine(run.hardware)
    if run.init_from is not None:
        run.init_from = os.path.normpath(run.init_from)


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


def _positive(name: str, value: Any, what: str = "a positive integer") -> str | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return None
    return f"{name} must be {what}, got {value!r}"


def _choice(name: str, value: Any, allowed: tuple[Any, ...]) -> str | None:
    if value in allowed:
        return None
    near = difflib.get_close_matches(str(value), [str(option) for option in allowed if option], n=1)
    hint = f": did you mean {near[0]}?" if near else ""
    return f"{name} must be one of {', '.join(str(option) for option in allowed if option)}, got {value!r}{hint}"


def _largest_divisor(number: int, limit: int) -> int:
    return max(d for d in range(1, min(number, limit) + 1) if number % d == 0)


def _divisors_near(number: int, wanted: int) -> str:
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    below = [d for d in divisors if d < wanted][-1:]
    above = [d for d in divisors if d > wanted][:1]
    return " or ".join(str(d) for d in below + above)


def run_dir(_root_: DictConfig) -> str:
    """The only resolver of ours: where a composed config's run stands below `multirun/`."""
    return settle(_root_).directory
