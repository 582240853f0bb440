"""Scale-free statistics of slots and connections.

Legend: N slots, M tokens. Every function returns a plain float and accepts any device and floating type.
An absolute threshold on |C| would depend on rank, width and units; nothing here has a unit.
"""

import math
from typing import Any

import torch
from torch import Tensor

MAP_SIDE = 128
"""Most rows of a strength map on disk; a printed figure shows no more."""
MAP_BINS = 40
"""Bins of the histogram beside a strength map."""


def connection_sparsity(strength_NN: Tensor) -> float:
    """Return the Hoyer sparsity of the off-diagonal |strength|: 0 all equal, 1 a single non-zero entry.

    Unchanged by scaling. 0 for an all-zero matrix or a single slot. Source: Hoyer, JMLR 5 (2004), section 3.1.
    """
    strength_NN = _square(strength_NN).abs()
    num_slots = strength_NN.shape[0]
    count = num_slots * (num_slots - 1)
    peak = strength_NN.fill_diagonal_(0).max() if count else strength_NN.new_zeros(())
    if peak == 0:
        return 0.0
    scaled_NN = strength_NN / peak  # no overflow and no underflow in the squares
    ratio = float(scaled_NN.sum() / scaled_NN.square().sum().sqrt())
    return min(1.0, max(0.0, (math.sqrt(count) - ratio) / (math.sqrt(count) - 1)))


def effective_rank(matrix: Tensor) -> float:
    """Return exp(entropy) of the normalised singular values of a matrix, in [1, min(shape)]; 0 for a zero matrix.

    Unchanged by scaling. Source: Roy and Vetterli, EUSIPCO 2007.
    """
    values = torch.linalg.svdvals(matrix.detach().double().cpu())
    total = values.sum()
    return 0.0 if total == 0 else math.exp(_entropy(values / total))


def spectral_radius(matrix_NN: Tensor) -> float:
    """Return the largest modulus among the eigenvalues of a square matrix; 0 for an empty one."""
    matrix_NN = _square(matrix_NN)
    return float(torch.linalg.eigvals(matrix_NN).abs().max()) if matrix_NN.numel() else 0.0


def strength_map(strength_NN: Tensor) -> dict[str, Any]:
    """Return an (N, N) strength matrix as plain numbers to keep and to draw, 4 significant digits each.

    `strength` are rows of at most MAP_SIDE means over square blocks of `slots_per_cell` slots a side (1: the matrix
    itself; the last block may be smaller). `histogram` counts every single connection between two different slots in
    MAP_BINS equal bins from `low` to `high`. A value that is not finite is None and is not counted.
    """
    strength_NN = _square(strength_NN)
    num_slots = strength_NN.shape[0]
    side = max(1, math.ceil(num_slots / MAP_SIDE))
    cell_N = torch.arange(num_slots) // side
    member_CN = torch.nn.functional.one_hot(cell_N).double().T
    member_CN = member_CN / member_CN.sum(1, keepdim=True)
    single = strength_NN[~torch.eye(num_slots, dtype=torch.bool)]
    single = single[single.isfinite()]
    low, high = (float(single.min()), float(single.max())) if single.numel() else (0.0, 0.0)
    return {
        "num_slots": num_slots,
        "slots_per_cell": side,
        "strength": [[_rounded(value) for value in row] for row in (member_CN @ strength_NN @ member_CN.T).tolist()],
        "histogram": {
            "low": _rounded(low),
            "high": _rounded(high),
            "counts": torch.histc(single, MAP_BINS, low, high).long().tolist(),
        },
    }


def slot_usage(slot_M: Tensor, num_slots: int) -> Tensor:
    """Return how many tokens chose each slot: (M,) slot numbers -> (N,) counts."""
    return torch.bincount(slot_M.detach().reshape(-1).cpu().long(), minlength=num_slots)


def slot_usage_entropy(usage_N: Tensor) -> float:
    """Return the entropy of slot usage (counts or attention mass) over log N: 1 all alike, 0 a single slot or none."""
    usage_N = usage_N.detach().double().cpu()
    if usage_N.numel() < 2 or usage_N.sum() == 0:
        return 0.0
    return _entropy(usage_N / usage_N.sum()) / math.log(usage_N.numel())


def slot_specialization(slot_M: Tensor, token_M: Tensor) -> float:
    """Return the normalised mutual information between a token's chosen slot and its id, in [0, 1].

    (M,) slot numbers and (M,) token ids, padding already removed. Normalised by the mean of both entropies. 0 when
    either side has one value only: a single slot tells nothing about a token. Few tokens per id raise it by chance,
    so compare runs on the same texts. Raises ValueError for unequal lengths.
    """
    slot_M, token_M = slot_M.detach().reshape(-1).cpu().long(), token_M.detach().reshape(-1).cpu().long()
    if slot_M.shape != token_M.shape:
        raise ValueError(f"{slot_M.numel()} slots for {token_M.numel()} tokens: one slot per token is needed")
    if slot_M.numel() == 0:
        return 0.0
    slots, slot_M = torch.unique(slot_M, return_inverse=True)
    tokens, token_M = torch.unique(token_M, return_inverse=True)
    if slots.numel() == 1 or tokens.numel() == 1:
        return 0.0
    _, joint = torch.unique(slot_M * tokens.numel() + token_M, return_counts=True)
    slot_entropy, token_entropy, joint_entropy = (
        _entropy(counts.double() / slot_M.numel()) for counts in (slot_M.bincount(), token_M.bincount(), joint)
    )
    shared = slot_entropy + token_entropy - joint_entropy
    return min(1.0, max(0.0, 2 * shared / (slot_entropy + token_entropy)))


def _square(matrix: Tensor) -> Tensor:
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"a square matrix is needed, not one of shape {tuple(matrix.shape)}")
    return matrix.detach().double().cpu().clone()


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _entropy(probability: Tensor) -> float:
    return float(torch.special.entr(probability).sum())
