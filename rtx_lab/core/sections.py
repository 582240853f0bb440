"""The fixed sections of a configuration: their keys, defaults, and what values they refuse."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field
from typing import Any

MOST_THREADS = 1024
"""More than any machine has; torch crashes without a word on a hundred thousand."""

OBJECTIVES = ("entropy", "topk_neglogp", "max_prob", "margin", "self_certainty")
"""Ways to tell from a model's own probabilities how sure it is."""


@dataclass(kw_only=True, slots=True)
class Budget:
    """How much to train, in what pieces, and how often to look."""

    global_batch: int = 64
    micro_batch: Any = None  # a number, `auto`, or null: 64 below width 256, then 32, 16 from 512 on
    micro_tokens: Any = None  # instead of micro_batch: most tokens of a micro-batch with its padding, or `auto`
    sort_window: int = 50  # optimizer steps whose samples are sorted by length together; 1: random steps
    eval_batch: int | None = None  # null: twice the micro-batch; under micro_tokens twice the global batch
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
        found.append(_positive("budget.sort_window", self.sort_window))
        found += [_positive(f"budget.{name}", getattr(self, name)) for name in ("keep_last", "patience", "eval_batch")]
        if self.checkpoint_every != "epoch":
            found.append(_positive("budget.checkpoint_every", self.checkpoint_every, "a number of steps or `epoch`"))
        if self.micro_batch != "auto":
            found.append(_positive("budget.micro_batch", self.micro_batch, "a positive integer or `auto`"))
        if self.micro_tokens != "auto":
            found.append(_positive("budget.micro_tokens", self.micro_tokens, "a positive integer or `auto`"))
        if None not in (self.micro_batch, self.micro_tokens):
            found.append(
                f"budget.micro_batch={self.micro_batch} and budget.micro_tokens={self.micro_tokens} are two ways to "
                "cut a step: give one of them and set the other to null"
            )
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
        if self.num_threads is not None and self.num_threads > MOST_THREADS:
            found.append(f"hardware.num_threads must be 1 to {MOST_THREADS}, got {self.num_threads}")
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
    min_new_tokens: int = 0  # summaries: no end before
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0  # summaries: no run of so many tokens twice; 0: no rule
    early_stopping: bool = False  # summaries: end a search at as many finished texts as there are beams
    watch_rows: int = 128  # summaries: validation rows written while training, by greedy search
    temperature: float = 0.0  # of a language model's answers: 0 takes the likeliest token, above it is drawn

    def problems(self) -> list[str]:
        found = [
            _positive("generation.num_beams", self.num_beams),
            _positive("generation.max_new_tokens", self.max_new_tokens),
            _positive("generation.watch_rows", self.watch_rows),
        ]
        for name in ("min_new_tokens", "no_repeat_ngram_size"):
            if getattr(self, name) < 0:
                found.append(f"generation.{name} must be 0 or more, got {getattr(self, name)}")
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            found.append(
                f"generation.min_new_tokens={self.min_new_tokens} is more than max_new_tokens={self.max_new_tokens}"
            )
        if not math.isfinite(self.length_penalty):
            found.append(f"generation.length_penalty must be a finite number, got {self.length_penalty}")
        if not 0 <= self.temperature < math.inf:
            found.append(f"generation.temperature must be 0 (greedy) or more, got {self.temperature}")
        return [problem for problem in found if problem]


@dataclass(kw_only=True, slots=True)
class Ltpo:
    """How latents are improved while an answer is written (LTPO, arXiv 2510.04182); the numbers are the original's.

    The original's objective, `topk_neglogp`, is higher for a flat distribution than for one that is flat over ten
    tokens; the default is not.
    """

    enabled: bool = False
    lr: float = 0.03
    sigma: float = 0.1  # of the noise that makes a candidate
    decay: float = 0.99  # of sigma, a step
    max_steps: int = 10  # 0: latents stay as they were woven
    top_k: int = 10  # tokens that topk_neglogp looks at
    estimator: str = "autograd"  # of the reward's gradient: reinforce | baseline | antithetic | autograd
    objective: str = "entropy"  # entropy | topk_neglogp | max_prob | margin | self_certainty
    control: str | None = None  # random_direction: moves as far, anywhere; best_of: the best of so many draws, no move
    num_candidates: int = 1  # scored in every step; baseline: 2 or more, antithetic: an even number
    threshold: float | None = None  # of the reward, at which an answer's latents are good enough
    patience: int | None = None  # steps without a better reward
    radius: float | None = None  # farthest that latents move, as a share of their norm
    where: str = "all"  # which latents: all | prompt

    @property
    def work(self) -> list[Any]:
        """What decides how much is computed, whatever the numbers are; empty while it is off."""
        how = self.estimator, self.objective, self.control, self.where
        return [*how, self.max_steps, self.num_candidates] if self.enabled else []

    def problems(self) -> list[str]:
        found = [
            _choice("ltpo.estimator", self.estimator, ("reinforce", "baseline", "antithetic", "autograd")),
            _choice("ltpo.objective", self.objective, OBJECTIVES),
            _choice("ltpo.control", self.control, ("random_direction", "best_of", None)),
            _choice("ltpo.where", self.where, ("all", "prompt")),
        ]
        found += [_positive(f"ltpo.{name}", getattr(self, name)) for name in ("top_k", "num_candidates", "patience")]
        if self.estimator == "baseline" and self.num_candidates == 1:
            found.append("ltpo.estimator=baseline compares candidates: ltpo.num_candidates must be 2 or more, got 1")
        if self.estimator == "antithetic" and self.num_candidates % 2:
            found.append(
                f"ltpo.estimator=antithetic draws candidates in pairs: ltpo.num_candidates must be even, got "
                f"{self.num_candidates}"
            )
        if self.max_steps < 0:
            found.append(f"ltpo.max_steps must be 0 (no step) or more, got {self.max_steps}")
        for name in ("lr", "sigma", "radius"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                found.append(f"ltpo.{name} must be a positive number, got {value}")
        if not 0 < self.decay <= 1:
            found.append(f"ltpo.decay must be above 0 and at most 1, got {self.decay}")
        if self.threshold is not None and not math.isfinite(self.threshold):
            found.append(f"ltpo.threshold must be a finite number, got {self.threshold}")
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


def _divisors_near(number: int, wanted: int) -> str:
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    below = [d for d in divisors if d < wanted][-1:]
    above = [d for d in divisors if d > wanted][:1]
    return " or ".join(str(d) for d in below + above)
