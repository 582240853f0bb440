"""What an encoder hands to a decoder."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(kw_only=True)
class Memory:
    """Encoded samples, and what halting and its losses know of them.

    Shapes: B batch, M memory positions (N slots, or S source tokens), D width, K most reasoning steps, V vocabulary.
    `log_probs` and `scores` are None where nothing reads them (no supervision in evaluation, fixed steps).
    """

    states: Tensor
    """(B, M, D) what the decoder attends to."""
    mask: Tensor | None
    """(B, M) bool, true where a position may be attended to; None where all may."""
    steps: Tensor
    """(B,) int64 reasoning steps behind `states`; 0 for a model that takes none."""
    expected_steps: Tensor | None = None
    """(B,) the differentiable number of steps that halting asks for (training)."""
    halting: Tensor | None = None
    """(B, K) probability to halt after step 1..K (ponder)."""
    scores: Tensor | None = None
    """(B, K) what the threshold is compared with, after step 1..K."""
    log_probs: Tensor | None = None
    """(K+1, B, V) the readout's log-probabilities of the first answer token after 0..K steps (training)."""
    assignment: Tensor | None = None
    """(B, S) int64 the slot that takes most of each source token (evaluation)."""

    def select(self, index: Tensor) -> Memory:
        """Return the memory of the samples at `index` (repeats allowed), with what decoding needs and no more."""
        mask = None if self.mask is None else self.mask.index_select(0, index)
        return Memory(states=self.states.index_select(0, index), mask=mask, steps=self.steps.index_select(0, index))
