"""Recursive denoising as its definition says: one sample, no padding, one position and one head at a time."""

import cmath
import math

import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm, silu, softplus


def rotated(vector, position):
    """One head's vector (C,) turned by its position: pair c is (c, c + C/2), frequency 10000^(-c / (C/2))."""
    vector, half = vector.detach(), len(vector) // 2
    out = [0.0] * len(vector)
    for c in range(half):
        turn = cmath.exp(1j * position * 10_000 ** (-c / half))
        pair = complex(vector[c], vector[half + c]) * turn
        out[c], out[half + c] = pair.real, pair.imag
    return torch.tensor(out, dtype=vector.dtype)


def attention(module, x_LD):
    """Self-attention with rotary positions, query by query."""
    length, d = x_LD.shape
    width = d // module.num_heads
    weights = module.query_key_value.weight.view(3, module.num_heads, width, d)
    rows = []
    for i in range(length):
        mixed = []
        for query_map, key_map, value_map in zip(*weights, strict=True):
            query = rotated(query_map @ x_LD[i], i)
            scores = [query @ rotated(key_map @ x_LD[j], j) / math.sqrt(width) for j in range(length)]
            share = torch.softmax(torch.stack(scores), dim=0)
            mixed.append(sum(share[j] * (value_map @ x_LD[j]) for j in range(length)))
        rows.append(module.output.weight @ torch.cat(mixed))
    return torch.stack(rows)


def feed_forward(module, x_LD):
    return torch.stack([module.outer(gelu(module.inner(x))) for x in x_LD])


def stack(module, x_LD):
    for block in module.blocks:
        x_LD = x_LD + attention(block.attention, block.attention_norm(x_LD))
        x_LD = x_LD + feed_forward(block.feed_forward, block.feed_forward_norm(x_LD))
    return module.norm(x_LD)


def norm_maps(core):
    """The stacked linear map taken apart: one Linear(D, 2 D) for each norm, in the order of the blocks."""
    d = core.modulation.in_features
    maps = []
    for weight, bias in zip(core.modulation.weight.split(2 * d), core.modulation.bias.split(2 * d), strict=True):
        maps.append(nn.Linear(d, 2 * d, dtype=weight.dtype))
        maps[-1].weight, maps[-1].bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return maps


def wave(level, d_model):
    """Sines of all frequencies, then cosines."""
    angles = [level * 10_000 ** (-2 * i / d_model) for i in range(d_model // 2)]
    return torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=torch.float64)


def adaln(linear, x_LD, embedding_D):
    gamma, beta = linear(embedding_D).chunk(2)
    rows = [(x - x.mean()) / torch.sqrt(x.var(unbiased=False) + 1e-5) * (1 + gamma) + beta for x in x_LD]
    return torch.stack(rows)


def core(module, x_LD, level):
    embedding = module.noise_embedding
    e_D = embedding.outer(silu(embedding.inner(wave(level, x_LD.shape[1]))))
    maps = iter(norm_maps(module))
    for block in module.blocks:
        x_LD = x_LD + attention(block.attention, adaln(next(maps), x_LD, e_D))
        x_LD = x_LD + feed_forward(block.feed_forward, adaln(next(maps), x_LD, e_D))
    return x_LD


def pool(module, h_LD):
    """torch's own multi-head attention with the same weights, the learned token as its only query."""
    twin = nn.MultiheadAttention(h_LD.shape[1], module.num_heads, batch_first=True, dtype=h_LD.dtype)
    parts = module.query, module.key, module.value
    twin.in_proj_weight = nn.Parameter(torch.cat([part.weight for part in parts]).detach())
    twin.in_proj_bias = nn.Parameter(torch.cat([part.bias for part in parts]).detach())
    twin.out_proj.weight = nn.Parameter(module.output.weight.detach())
    twin.out_proj.bias = nn.Parameter(module.output.bias.detach())
    return twin(module.token[None], h_LD[None], h_LD[None])[0][0, 0]


def gate(module, h_LD, tau, before_D):
    """The estimate of the paper, 20 to 0, of one state: (tau, pooled). `tau` None is the first state."""
    pooled_D = pool(module.pool, h_LD)
    before_D = torch.zeros_like(pooled_D) if before_D is None else before_D
    z = gelu(module.fuse(torch.cat([pooled_D, before_D])))
    z = gelu(module.first.norm(module.first.inner(z)))
    z = z + gelu(module.second.norm(module.second.inner(z)))
    new = 20 - softplus(module.level(z)) if tau is None else tau - softplus(module.fall(z))
    return max(new.item(), 0.0), pooled_D


def denoise(model, tokens_L, noises, fresh_L=None):
    """Yield (hidden, noise, read) of one sample after 0, 1, ... recursions; read is None before the first.

    noises: the level given to each recursion, or None for the gate's own; `fresh_L` is re-injected from the second on.
    """
    d = model.token.shape[1]
    own_input = h_LD = stack(model.input_processor, model.token[tokens_L] * math.sqrt(d))
    tau, pooled = gate(model.gate, h_LD, None, None)
    yield h_LD, tau / 20, None
    for step, noise in enumerate(noises):
        if step and fresh_L is not None:
            own_input = stack(model.input_processor, model.token[fresh_L] * math.sqrt(d))
        if model.reinject:
            h_LD = (layer_norm(h_LD, (d,)) + own_input) / 2
        h_LD = core(model.core, h_LD, (tau / 20 if noise is None else noise) * model.total_steps)
        if model.carry_norm:
            h_LD = layer_norm(h_LD, (d,))
        tau, pooled = gate(model.gate, h_LD, tau, pooled)
        yield h_LD, tau / 20, stack(model.output_processor, h_LD)
