"""Optimizers and learning-rate schedules: the targets of the `optim` config group.

Matrices and tables decay; norms and biases (fewer than two dimensions) do not, as in the transformers library. A
schedule is a pure function of the step: nothing of it needs to be saved.
"""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from rtx_lab.core.errors import UsageError
from rtx_lab.core.update import Update, by_host, on_device

DEFAULT_LR = 1e-4


def _cosine(progress: float, num_cycles: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _cosine_with_restarts(progress: float, num_cycles: float) -> float:
    position = num_cycles * progress
    phase = position % 1.0
    ends_a_cycle = progress >= 1.0 and math.isclose(position, round(position))
    return 0.5 * (1.0 + math.cos(math.pi * (1.0 if ends_a_cycle else phase)))


def _linear(progress: float, num_cycles: float) -> float:
    return 1.0 - progress


def _polynomial(progress: float, num_cycles: float) -> float:
    return (1.0 - progress) ** 2


def _constant(progress: float, num_cycles: float) -> float:
    return 1.0


SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "cosine": _cosine,
    "linear": _linear,
    "cosine_with_restarts": _cosine_with_restarts,
    "polynomial": _polynomial,
    "constant": _constant,
}
"""What is left of the peak after a share `progress` of the steps behind the warm-up, from 1 down to 0."""


def learning_rate(
    step: int,
    total_steps: int,
    *,
    lr: float,
    schedule: str = "cosine",
    warmup_ratio: float = 0.1,
    min_lr_ratio: float = 0.1,
    num_cycles: float = 1.0,
) -> float:
    """Learning rate of optimizer step `step`, counted from 1 to `total_steps`.

    Rises linearly over the first ceil(warmup_ratio * total_steps) steps, reaches `lr` at the last of them, then falls
    to `min_lr_ratio * lr` at the last step: by half a cosine, a line, a square (`polynomial`), or `num_cycles` half
    cosines that each start at the peak. With `min_lr_ratio` 0 equal to the schedules of the transformers library at
    the same step (its polynomial with power 2).
    """
    warmup = math.ceil(warmup_ratio * total_steps)
    if step < warmup:
        return lr * step / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return lr * (min_lr_ratio + (1.0 - min_lr_ratio) * SCHEDULES[schedule](progress, num_cycles))


def problems(
    *,
    lr: float | None = DEFAULT_LR,
    weight_decay: float = 0.01,
    betas: Sequence[float] = (0.9, 0.999),
    schedule: str = "cosine",
    warmup_ratio: float = 0.1,
    min_lr_ratio: float = 0.1,
    max_grad_norm: float | None = 1.0,
    num_cycles: float = 1.0,
) -> list[str]:
    """What is wrong with the values of an `optim` section, one sentence each."""
    checks = [
        (lr is None or 0 < lr < math.inf, f"optim.lr must be a positive finite number, got {lr}"),
        (0 <= weight_decay < math.inf, f"optim.weight_decay must be a finite number of at least 0, got {weight_decay}"),
        (
            len(betas) == 2 and all(0 <= b < 1 for b in betas),
            f"optim.betas must be two numbers in [0, 1), got {list(betas)}",
        ),
        (0 <= warmup_ratio <= 1, f"optim.warmup_ratio must lie between 0 and 1, got {warmup_ratio}"),
        (0 <= min_lr_ratio <= 1, f"optim.min_lr_ratio must lie between 0 and 1, got {min_lr_ratio}"),
        (
            max_grad_norm is None or 0 < max_grad_norm < math.inf,
            f"optim.max_grad_norm must be a positive finite number or null, got {max_grad_norm}",
        ),
        (0 < num_cycles < math.inf, f"optim.num_cycles must be a positive finite number, got {num_cycles}"),
    ]
    found = [sentence for good, sentence in checks if not good]
    if schedule not in SCHEDULES:
        near = difflib.get_close_matches(str(schedule), SCHEDULES, n=1)
        hint = f": did you mean {near[0]}?" if near else ""
        found.append(f"optim.schedule must be one of {', '.join(SCHEDULES)}, got {schedule}{hint}")
    return found


def adamw(
    model: nn.Module,
    total_steps: int,
    *,
    lr: float | None = DEFAULT_LR,
    weight_decay: float = 0.01,
    betas: Sequence[float] = (0.9, 0.999),
    schedule: str = "cosine",
    warmup_ratio: float = 0.1,
    min_lr_ratio: float = 0.1,
    max_grad_norm: float | None = 1.0,
    num_cycles: float = 1.0,
) -> Update:
    """AdamW (arXiv 1711.05101) in one fused kernel, with moments in the precision of the weights.

    The model stands on its device already; that decides who refuses a broken step, kernel or host. Raises UsageError
    with everything that is out of range.
    """
    rate = _rate(locals())
    params = _groups(model, weight_decay)
    optimizer = torch.optim.AdamW(params, lr=rate(1), betas=(betas[0], betas[1]), fused=True)
    state_bytes = 2.0 * sum(param.nbytes for param in model.parameters() if param.requires_grad)
    # a refusal in the fused kernels costs more kernels per tensor: it only pays where the host would have to wait
    step = on_device if any(param.is_cuda for param in model.parameters()) else by_host
    return Update(
        optimizer=optimizer, rate=rate, max_grad_norm=max_grad_norm, step=step, state_bytes=state_bytes,
        prepare=partial(_allocate_moments, optimizer),
    )  # fmt: skip


def adamw_8bit(
    model: nn.Module,
    total_steps: int,
    *,
    lr: float | None = DEFAULT_LR,
    weight_decay: float = 0.01,
    betas: Sequence[float] = (0.9, 0.999),
    schedule: str = "cosine",
    warmup_ratio: float = 0.1,
    min_lr_ratio: float = 0.1,
    max_grad_norm: float | None = 1.0,
    num_cycles: float = 1.0,
) -> Update:
    """AdamW with block-wise 8-bit moments (arXiv 2110.02861, bitsandbytes): 2 bytes of state per weight instead of 8.

    Embedding tables and tensors under 4096 elements keep 32-bit moments, as the paper advises. Raises UsageError.
    """
    rate = _rate(locals())
    from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportPrivateImportUsage]

    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    optimizer = AdamW8bit(
        _groups(model, weight_decay), lr=rate(1), betas=(betas[0], betas[1]), weight_decay=weight_decay
    )
    prepare = partial(_allocate_state, optimizer, tables)
    state_bytes = sum(_quantised_bytes(param, param in tables) for param in _trained(optimizer))
    return _host_checked(optimizer, rate, max_grad_norm, prepare, state_bytes=state_bytes)


def adamw_paged(
    model: nn.Module,
    total_steps: int,
    *,
    lr: float | None = DEFAULT_LR,
    weight_decay: float = 0.01,
    betas: Sequence[float] = (0.9, 0.999),
    schedule: str = "cosine",
    warmup_ratio: float = 0.1,
    min_lr_ratio: float = 0.1,
    max_grad_norm: float | None = 1.0,
    num_cycles: float = 1.0,
) -> Update:
    """AdamW with 32-bit moments that move to host memory when the GPU is full (bitsandbytes; QLoRA, arXiv 2305.14314).

    On a CPU the moments simply stay where they are. Raises UsageError.
    """
    rate = _rate(locals())
    from bitsandbytes.optim import PagedAdamW32bit  # pyright: ignore[reportPrivateImportUsage]

    optimizer = PagedAdamW32bit(
        _groups(model, weight_decay), lr=rate(1), betas=(betas[0], betas[1]), weight_decay=weight_decay
    )
    prepare = partial(_allocate_state, optimizer, set())
    state_bytes = sum(8.0 * param.numel() for param in _trained(optimizer))
    return _host_checked(optimizer, rate, max_grad_norm, prepare, state_bytes=state_bytes, paged_bytes=state_bytes)


def _rate(arguments: dict[str, Any]) -> Callable[[int], float]:
    """Check a factory's arguments and bind the schedule that they describe."""
    values = {key: value for key, value in arguments.items() if key not in ("model", "total_steps")}
    found = problems(**values)
    if found:
        raise UsageError(*found)
    shape = {key: values[key] for key in ("schedule", "warmup_ratio", "min_lr_ratio", "num_cycles")}
    peak = values["lr"] if values["lr"] is not None else DEFAULT_LR
    return partial(learning_rate, total_steps=arguments["total_steps"], lr=peak, **shape)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    params = [param for param in model.parameters() if param.requires_grad]
    decaying = [param for param in params if param.ndim >= 2]
    others = [param for param in params if param.ndim < 2]
    groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    # an evaluation alone trains nothing, and torch makes no optimizer of nothing
    return [group for group in groups if group["params"]] or [{"params": [nn.Parameter(torch.zeros(1))]}]


def _host_checked(
    optimizer: Any,
    rate: Callable[[int], float],
    max_grad_norm: float | None,
    prepare: Callable[[], None],
    *,
    state_bytes: float,
    paged_bytes: float = 0.0,
) -> Update:
    return Update(
        optimizer=optimizer,
        rate=rate,
        max_grad_norm=max_grad_norm,
        step=by_host,
        state_bytes=state_bytes,
        paged_bytes=paged_bytes,
        prepare=prepare,
    )


def _trained(optimizer: Any) -> list[torch.Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def _quantised_bytes(param: torch.Tensor, is_table: bool) -> float:
    """Two moments: a byte an element and a float32 scale per block of 256, or 32 bits where `adamw_8bit` keeps them."""
    return (
        8.0 * param.numel()
        if is_table or param.numel() < 4096
        else 2.0 * (param.numel() + 4 * -(-param.numel() // 256))
    )


def _allocate_moments(optimizer: torch.optim.AdamW) -> None:
    """Make the state that torch would make in the first step, between the steps of two groups of weights."""
    for param in _trained(optimizer):
        if not optimizer.state[param]:
            moments = (torch.zeros_like(param, memory_format=torch.preserve_format) for _ in range(2))
            count = torch.zeros((), dtype=torch.float32, device=param.device)
            optimizer.state[param] = dict(zip(("step", "exp_avg", "exp_avg_sq"), (count, *moments), strict=True))


def _allocate_state(optimizer: Any, tables: set[torch.Tensor]) -> None:
    """Make the state that bitsandbytes would make in the first step, between the steps of single weights.

    Its own way to name tensors with 32-bit moments, GlobalOptimManager, remembers them by address for the life of the
    process: a later model's tensors can stand where an earlier model's tables stood.
    """
    bits = optimizer.args.optim_bits
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
        for group_index, group in enumerate(optimizer.param_groups):
            for index, param in enumerate(group["params"]):
                if not optimizer.state[param]:
                    optimizer.args.optim_bits = 32 if param in tables else bits
                    optimizer.init_state(group, param, group_index, index)
    optimizer.args.optim_bits = bits
