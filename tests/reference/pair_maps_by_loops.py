"""The pair maps as their definition says: one product per pair, in Python loops, and the same as one einsum."""

import torch


def influence_by_loops(h, source, target, scale):
    """I_j = scale * sum over i != j of (h_i S_ij) T_ij; h (B, N, D), source (N, N, D, r), target (N, N, r, D)."""
    influence = torch.zeros_like(h)
    for i in range(h.shape[1]):
        for j in range(h.shape[1]):
            if i != j:
                influence[:, j] += (h[:, i] @ source[i, j]) @ target[i, j]
    return influence * scale


def influence_by_einsum(h, source, target, scale):
    """The naive vectorised form, with the (B, N, N, r) projection of an expanded state."""
    num_slots = h.shape[1]
    different = 1 - torch.eye(num_slots, dtype=h.dtype)
    expanded = h.unsqueeze(2).expand(-1, -1, num_slots, -1)
    projected = torch.einsum("bijd,ijdr->bijr", expanded, source) * different[None, :, :, None]
    return torch.einsum("bijr,ijrd->bjd", projected, target) * scale


def explicit_maps(connection):
    """Every S_ij (N, N, D, r) and T_ij (N, N, r, D) of a factorised connection, from its own parameters."""
    num_slots = connection.read.shape[0]
    target = connection.write[None].expand(num_slots, -1, -1, -1)
    match type(connection).__name__:
        case "DiagConnection":
            source = connection.read[:, None] * connection.pair.permute(2, 1, 0)[:, :, None, :]
        case "CoreConnection":
            rank = connection.rank
            core = connection.core.view(num_slots, rank, num_slots, rank).permute(0, 2, 1, 3)
            source = connection.read[:, None] @ core
    return source, target


def mean_orthogonality_error(source, target):
    """Mean over i != j of MSE(S'S, 1) and MSE(T T', 1), one pair at a time."""
    eye = torch.eye(source.shape[-1], dtype=source.dtype)
    errors = []
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            if i != j:
                errors.append((source[i, j].T @ source[i, j] - eye).square().mean())
                errors.append((target[i, j] @ target[i, j].T - eye).square().mean())
    return torch.stack(errors).mean()


def vector_penalty(vectors):
    """Mean (||w||-1)^2 plus .1 of the mean squared inner product over all ordered pairs of different connections."""
    n = vectors.shape[0]
    rows = [vectors[i, j] for i in range(n) for j in range(n) if i != j]
    unit = torch.stack([(row.norm() - 1).square() for row in rows]).mean()
    products = [(p @ q).square() for a, p in enumerate(rows) for b, q in enumerate(rows) if a != b]
    return unit + 0.1 * torch.stack(products).mean()
