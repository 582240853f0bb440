"""Who inserts: rules by which the writings of a row decide, see `latent_rows.Choose`.

Random rules draw from a hash of the row's seed and the decision's number, so a row in a batch decides as it does alone.

Shapes: N rows that decide now.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rtx_lab.inference.latent_rows import Choose, Decision
from rtx_lab.nn.masking import CHOICES, hashed_uniform


def always(decision: Decision) -> Tensor:
    """Every writing inserts."""
    return decision.weight_N


def by_trigger(decision: Decision) -> Tensor:
    """A row inserts where the trigger holds it for likelier than not."""
    return torch.where(decision.logit_N > 0, decision.weight_N, 0)


def at_random(share: float) -> Choose:
    """Every writing inserts with the same probability, whatever was read."""

    def choose(decision: Decision) -> Tensor:
        return _successes(decision, torch.full_like(decision.logit_N, share))

    return choose


def sampled(decision: Decision) -> Tensor:
    """Every writing inserts with the trigger's own probability."""
    return _successes(decision, decision.logit_N.sigmoid())


def with_flips(decision: Decision) -> Tensor:
    """A row that stands for several writings follows the trigger and gives one of them the other action.

    A row of one writing follows the trigger: so each decision of the first path gets a twin that differs in it alone,
    as long as the row has writings left.
    """
    wants_N = decision.logit_N > 0
    one_N = torch.ones_like(decision.weight_N)
    several_N = decision.weight_N > 1
    inserting_N = torch.where(wants_N, decision.weight_N - one_N, one_N)
    return torch.where(several_N, inserting_N, wants_N.long())


def _successes(decision: Decision, probability_N: Tensor) -> Tensor:
    """How many of each row's writings draw a number below the probability: (N,)."""
    most = int(decision.weight_N.max())
    own_N = decision.seed_N * 1_000_003 + decision.number_N
    uniform_NM = hashed_uniform(own_N, most, CHOICES)
    counts = torch.arange(most, device=uniform_NM.device) < decision.weight_N[:, None]
    return ((uniform_NM < probability_N[:, None]) & counts).sum(1)
