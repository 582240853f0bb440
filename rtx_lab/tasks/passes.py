"""How each family of denoisers fills in a text when it is scored, with the settings that stand in its model.

Shapes: B samples, L segment length, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rtx_lab.inference.filling import Filled, single_pass
from rtx_lab.inference.mask_predict import mask_predict
from rtx_lab.inference.refine import refine
from rtx_lab.inference.reverse import reverse_diffusion

CURVE_RATIO = 0.5
CURVE_STEPS = (1, 2, 4, 8, 16)
"""Quality against arithmetic is measured at half of the tokens hidden, after these fixed numbers of steps or passes."""


@dataclass(frozen=True, slots=True)
class Ways:
    """What is asked of a filling beside the model's own settings: a fixed number of steps, and the texts in between."""

    mask_id: int
    fixed_steps: int | None = None
    keep_trace: bool = False


def _recursive(
    model: Any, noisy_BL: Tensor, hidden_BL: Tensor, real_BL: Tensor | None, seed_B: Tensor, ways: Ways
) -> Filled:
    del seed_B  # nothing is drawn
    return refine(
        model, noisy_BL, hidden_BL, real_BL, mask_id=ways.mask_id, max_steps=model.max_steps,
        threshold=model.threshold, fixed_steps=ways.fixed_steps, keep_trace=ways.keep_trace,
    )  # fmt: skip


def _single(
    model: Any, noisy_BL: Tensor, hidden_BL: Tensor, real_BL: Tensor | None, seed_B: Tensor, ways: Ways
) -> Filled:
    del seed_B
    return single_pass(model, noisy_BL, hidden_BL, real_BL, mask_id=ways.mask_id, keep_trace=ways.keep_trace)


def _iterative(
    model: Any, noisy_BL: Tensor, hidden_BL: Tensor, real_BL: Tensor | None, seed_B: Tensor, ways: Ways
) -> Filled:
    del seed_B
    count = ways.fixed_steps or model.num_iterations
    return mask_predict(
        model, noisy_BL, hidden_BL, real_BL, mask_id=ways.mask_id, num_iterations=count, keep_trace=ways.keep_trace
    )


def _reverse(
    model: Any, noisy_BL: Tensor, hidden_BL: Tensor, real_BL: Tensor | None, seed_B: Tensor, ways: Ways
) -> Filled:
    steps = ways.fixed_steps or model.num_sampling_steps
    return reverse_diffusion(
        model, noisy_BL, hidden_BL, real_BL, seed_B, mask_id=ways.mask_id, num_steps=steps,
        sampler=model.sampler, noise_schedule=model.noise_schedule, keep_trace=ways.keep_trace,
    )  # fmt: skip


FILLERS: dict[str, Callable[..., Filled]] = {
    "chain": _recursive,
    "mlm": _single,
    "cmlm": _iterative,
    "mdlm": _reverse,
}
