"""Pair maps: what every slot i sends to every other slot j, I_j = c * sum over i != j of h_i W_ij.

Five families, from the largest to the smallest, each one module with the same four methods:

    dense    W_ij = S_ij T_ij, a map of rank r for every pair (the Connection Transformer's own form)
    core     W_ij = P_i G_ij Q_j, one r x r matrix for every pair
    diag     W_ij = P_i diag(s_ij) Q_j, one r-vector for every pair
    scalar   W_ij = <s_ij, t_ij> times the identity
    linear   W_ij = C_ij times the identity, i = j included: one matrix that mixes the slots

A pair i = i never contributes (but in `linear`). The constant c makes the influence of normalised slots start with
unit variance per component, whatever N, D and r are, so that neither the state nor the influence drowns the other.

Shapes: B batch, N slots (I source, J target), D width, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rtx_lab.core.errors import UsageError

CONNECTIONS = ("dense", "core", "diag", "scalar", "linear")

Mix = Callable[[Tensor], Tensor]


def build_connection(connection: str, num_slots: int, d_model: int, bilinear_rank: int) -> Connection:
    """Return the pair maps of the named family; raises UsageError on an unknown name."""
    match connection:
        case "dense":
            return DenseConnection(num_slots, d_model, bilinear_rank)
        case "core":
            return CoreConnection(num_slots, d_model, bilinear_rank)
        case "diag":
            return DiagConnection(num_slots, d_model, bilinear_rank)
        case "scalar":
            return ScalarConnection(num_slots, bilinear_rank)
        case "linear":
            return LinearConnection(num_slots)
        case _:
            raise UsageError(f"model.connection must be one of {', '.join(CONNECTIONS)}, got {connection!r}")


def orthonormal_panels(num_panels: int, rows: int, columns: int) -> Tensor:
    """Draw `num_panels` matrices with orthonormal columns, uniformly, by one batched QR: (P, rows, columns)."""
    q, upper = torch.linalg.qr(torch.randn(num_panels, rows, columns))
    # The sign makes the factorisation unique, hence the draw uniform (Haar).
    return q * torch.sgn(upper.diagonal(dim1=-2, dim2=-1)).unsqueeze(-2)


def identity_error(panels: Tensor) -> Tensor:
    """Mean squared difference between the Gram matrix of the last dimension's columns and the identity: (...)."""
    gram = panels.mT @ panels
    return (gram - torch.eye(gram.shape[-1], device=gram.device, dtype=gram.dtype)).square().mean((-2, -1))


def _stored(values: Tensor) -> nn.Parameter:
    """Return a parameter with storage of its own: a QR leaves column-major views of a larger tensor."""
    return nn.Parameter(values.clone(memory_format=torch.contiguous_format))


def _apply_panels(h_BND: Tensor, panels_NDR: Tensor) -> Tensor:
    """Multiply each slot by its own panel: (B, N, D) and (N, D, R) to (N, B, R)."""
    return torch.bmm(h_BND.transpose(0, 1), panels_NDR)


class DenseConnection(nn.Module):
    """A free map of rank r for every pair, as two batched GEMMs; no tensor of B N N D elements exists.

    `source` packs S_ij (D, r) as (N_i, D, N_j * r) and `target` packs T_ij (r, D) as (N_j, N_i * r, D).
    Activations kept per step: the packed B N N r projection and the state.
    """

    def __init__(self, num_slots: int, d_model: int, rank: int) -> None:
        super().__init__()
        n, d, r = num_slots, d_model, rank
        self.rank = rank
        self.scale = math.sqrt(d / (max(n - 1, 1) * r))
        panels = orthonormal_panels(2 * n * n, d, r).view(2, n, n, d, r)
        self.source = _stored(panels[0].permute(0, 2, 1, 3).reshape(n, d, n * r))
        self.target = _stored(panels[1].transpose(-2, -1).reshape(n, n * r, d))

    def operator(self) -> Mix:
        """Return the function (B, N, D) -> (B, N, D) for the steps of one pass."""
        return self.forward

    def forward(self, h_BND: Tensor) -> Tensor:
        """Return the influence on every slot: (B, N, D)."""
        n, r = h_BND.shape[1], self.rank
        z_IBJR = _apply_panels(h_BND, self.source).view(n, -1, n, r)
        z_JBIR = z_IBJR.permute(2, 1, 0, 3).contiguous()
        del z_IBJR
        z_JBIR.diagonal(dim1=0, dim2=2).zero_()  # in the packed layout: N * B * r elements instead of a masked copy
        return torch.bmm(z_JBIR.view(n, -1, n * r), self.target).transpose(0, 1) * self.scale

    def maps(self) -> tuple[Tensor, Tensor]:
        """Return S (N_i, N_j, D, r) and T (N_i, N_j, r, D) as views of the parameters."""
        n, d, r = self.source.shape[0], self.source.shape[1], self.rank
        source = self.source.view(n, d, n, r).permute(0, 2, 1, 3)
        return source, self.target.view(n, n, r, d).transpose(0, 1)

    def strength(self) -> Tensor:
        """Frobenius norm of every W_ij without forming one: ||S T||^2 = <S'S, T T'>. (N, N), diagonal zero."""
        source, target = self.maps()
        squared = ((source.mT @ source) * (target @ target.mT)).sum((-2, -1))
        return _off_diagonal(squared.clamp_min(0).sqrt()) * self.scale

    def penalty(self) -> Tensor:
        """Mean over the pairs i != j of MSE(S'S, 1) and of MSE(T T', 1), averaged."""
        source, target = self.maps()
        return _pair_mean((identity_error(source) + identity_error(target.mT)) / 2)


class CoreConnection(nn.Module):
    """P_i G_ij Q_j: slots share their reading and writing panels, every pair keeps a full r x r matrix."""

    def __init__(self, num_slots: int, d_model: int, rank: int) -> None:
        super().__init__()
        n, d, r = num_slots, d_model, rank
        self.rank = rank
        self.scale = math.sqrt(d / (max(n - 1, 1) * r))
        panels = orthonormal_panels(2 * n, d, r).view(2, n, d, r)
        self.read = _stored(panels[0])
        self.write = _stored(panels[1].transpose(-2, -1))
        cores = orthonormal_panels(n * n, r, r).view(n, n, r, r)
        self.core = _stored(cores.transpose(1, 2).reshape(n * r, n * r))

    def operator(self) -> Mix:
        """Return the function (B, N, D) -> (B, N, D) for the steps of one pass, the diagonal masked once."""
        core = self.cores().transpose(1, 2).reshape(self.core.shape)

        def mix(h_BND: Tensor) -> Tensor:
            b, n, _ = h_BND.shape
            y_BIR = _apply_panels(h_BND, self.read).transpose(0, 1).reshape(b, n * self.rank)
            z_NBR = (y_BIR @ core).view(b, n, self.rank).transpose(0, 1)
            return torch.bmm(z_NBR, self.write).transpose(0, 1) * self.scale

        return mix

    def forward(self, h_BND: Tensor) -> Tensor:
        """Return the influence on every slot: (B, N, D)."""
        return self.operator()(h_BND)

    def cores(self) -> Tensor:
        """Return every G_ij, those of i = j zero: (N_i, N_j, r, r)."""
        n, r = self.read.shape[0], self.rank
        cores = self.core.view(n, r, n, r).transpose(1, 2)
        return cores.masked_fill(_diagonal(n, cores.device)[:, :, None, None], 0)

    def strength(self) -> Tensor:
        """Frobenius norm of every P_i G_ij Q_j: <G' (P'P) G, Q Q'>. (N, N), diagonal zero."""
        cores = self.cores()
        read_gram, write_gram = self.read.mT @ self.read, self.write @ self.write.mT
        squared = ((cores.mT @ read_gram[:, None] @ cores) * write_gram[None]).sum((-2, -1))
        return _off_diagonal(squared.clamp_min(0).sqrt()) * self.scale

    def penalty(self) -> Tensor:
        """Mean over slots of MSE(P'P, 1) and of MSE(Q Q', 1), averaged."""
        return ((identity_error(self.read) + identity_error(self.write.mT)) / 2).mean()


class DiagConnection(nn.Module):
    """P_i diag(s_ij) Q_j: the mixing between slots is r batched N x N GEMMs, about 100 times less than dense."""

    def __init__(self, num_slots: int, d_model: int, rank: int) -> None:
        super().__init__()
        n, d, r = num_slots, d_model, rank
        self.scale = math.sqrt(d / (max(n - 1, 1) * r))
        panels = orthonormal_panels(2 * n, d, r).view(2, n, d, r)
        self.read = _stored(panels[0])
        self.write = _stored(panels[1].transpose(-2, -1))
        self.pair = nn.Parameter(torch.randn(r, n, n))  # s of (r, target j, source i): the layout of the GEMM

    def operator(self) -> Mix:
        """Return the function (B, N, D) -> (B, N, D) for the steps of one pass, the diagonal masked once."""
        pair_RJI = self.pair.masked_fill(_diagonal(self.pair.shape[1], self.pair.device), 0)
        write = self.write * self.scale  # once a pass: the panels are smaller than the state

        def mix(h_BND: Tensor) -> Tensor:
            y_RIB = _apply_panels(h_BND, self.read).permute(2, 0, 1)
            z_JBR = torch.bmm(pair_RJI, y_RIB).permute(1, 2, 0)
            return torch.bmm(z_JBR, write).transpose(0, 1)

        return mix

    def forward(self, h_BND: Tensor) -> Tensor:
        """Return the influence on every slot: (B, N, D)."""
        return self.operator()(h_BND)

    def strength(self) -> Tensor:
        """Frobenius norm of every P_i diag(s_ij) Q_j: s' (P'P * Q Q') s. (N, N), diagonal zero."""
        pair_IJR = self.pair.permute(2, 1, 0)
        read_gram, write_gram = self.read.mT @ self.read, self.write @ self.write.mT
        # Sum over one rank index at a time: N N r live elements instead of N N r r.
        squared = torch.zeros_like(pair_IJR[..., 0])
        for k in range(pair_IJR.shape[-1]):
            form = (pair_IJR * read_gram[:, None, k] * write_gram[None, :, k]).sum(-1)
            squared = squared + pair_IJR[..., k] * form
        return _off_diagonal(squared.clamp_min(0).sqrt()) * self.scale

    def penalty(self) -> Tensor:
        """Mean over slots of MSE(P'P, 1) and of MSE(Q Q', 1), averaged."""
        return ((identity_error(self.read) + identity_error(self.write.mT)) / 2).mean()


class ScalarConnection(nn.Module):
    """One number for every pair, the inner product of two r-vectors: the rank adds parameters, but no functions."""

    def __init__(self, num_slots: int, rank: int) -> None:
        super().__init__()
        self.scale = math.sqrt(rank / max(num_slots - 1, 1))
        source, target = nn.functional.normalize(torch.randn(2, num_slots, num_slots, rank), dim=-1)
        self.source, self.target = _stored(source), _stored(target)

    def matrix(self) -> Tensor:
        """Return C (N_i, N_j), its diagonal zero."""
        return _off_diagonal((self.source * self.target).sum(-1)) * self.scale

    def operator(self) -> Mix:
        """Return the function (B, N, D) -> (B, N, D) for the steps of one pass, C computed once."""
        transposed = self.matrix().mT.contiguous()
        return lambda h_BND: torch.matmul(transposed, h_BND)

    def forward(self, h_BND: Tensor) -> Tensor:
        """Return the influence on every slot: (B, N, D)."""
        return self.operator()(h_BND)

    def strength(self) -> Tensor:
        """Absolute value of every C_ij: (N, N), diagonal zero."""
        return self.matrix().abs()

    def penalty(self) -> Tensor:
        """Mean of (||w||-1)^2 plus .1 of the mean squared inner product of two different pairs' vectors.

        Exact, by the r x r Gram form instead of a sample of pairs. Its floor is about .1 / r (Welch's bound).
        """
        return (_vector_penalty(self.source) + _vector_penalty(self.target)) / 2


class LinearConnection(nn.Module):
    """The control: one free N x N matrix over the slot axis, I_j = sum over all i of C_ij h_i."""

    def __init__(self, num_slots: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_slots, num_slots) / math.sqrt(num_slots))

    def operator(self) -> Mix:
        """Return the function (B, N, D) -> (B, N, D) for the steps of one pass."""
        return self.forward

    def forward(self, h_BND: Tensor) -> Tensor:
        """Return the influence on every slot: (B, N, D)."""
        return torch.matmul(self.weight.mT, h_BND)

    def strength(self) -> Tensor:
        """Absolute value of every C_ij: (N, N)."""
        return self.weight.abs()

    def penalty(self) -> Tensor:
        """Zero: a single matrix has no pair maps to regularise."""
        return self.weight.new_zeros(())


def _vector_penalty(vectors_NNR: Tensor) -> Tensor:
    num_slots = vectors_NNR.shape[0]
    count = max(num_slots * (num_slots - 1), 2)
    rows = vectors_NNR.masked_fill(_diagonal(num_slots, vectors_NNR.device)[..., None], 0).flatten(0, 1)
    squared = rows.square().sum(-1)
    # sqrt has no finite gradient at the zero rows of the diagonal.
    norms = torch.where(squared > 0, squared, 1).sqrt()
    unit = (norms - 1).square().sum() / count
    different = ((rows.mT @ rows).square().sum() - squared.square().sum()) / (count * (count - 1))
    return unit + 0.1 * different


def _pair_mean(values_NN: Tensor) -> Tensor:
    num_slots = values_NN.shape[0]
    return _off_diagonal(values_NN).sum() / max(num_slots * (num_slots - 1), 1)


def _off_diagonal(values_NN: Tensor) -> Tensor:
    return values_NN.masked_fill(_diagonal(values_NN.shape[0], values_NN.device), 0)


def _diagonal(size: int, device: torch.device) -> Tensor:
    index = torch.arange(size, device=device)
    return index[:, None] == index[None, :]


Connection = DenseConnection | CoreConnection | DiagConnection | ScalarConnection | LinearConnection
