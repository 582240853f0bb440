"""What a recursive denoiser carries from one recursion to the next."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Thought:
    """A batch in the middle of its recursions.

    Shapes: B batch, L length, D width. Halting belongs to the caller: a sample is done when `noise_B` is low enough.
    """

    hidden_BLD: Tensor
    """The carried state."""
    noise_B: Tensor
    """The gate's estimate of the share of noise left, in [0, 1]; it never rises from one recursion to the next."""
    pooled_BD: Tensor
    """The gate's summary of the state, without gradient; the next estimate compares with it."""
    input_BLD: Tensor
    """The processed input, which a model that re-injects adds at every recursion."""
    real_BL: Tensor | None
    """Bool, true at real tokens; None where nothing is padded."""
    num_linked: int = 0
    """Recursions since the state was last cut from its gradient, or since the first."""

    def select(self, index: Tensor) -> Thought:
        """Return the samples at `index` (repeats allowed), as inference drops those that are done."""
        return Thought(
            hidden_BLD=self.hidden_BLD.index_select(0, index),
            noise_B=self.noise_B.index_select(0, index),
            pooled_BD=self.pooled_BD.index_select(0, index),
            input_BLD=self.input_BLD.index_select(0, index),
            real_BL=None if self.real_BL is None else self.real_BL.index_select(0, index),
            num_linked=self.num_linked,
        )
