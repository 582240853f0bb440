"""The seed's recursive denoiser on torch's own encoder layer, one sample at a time and without padding."""

import math

import torch
from torch import nn


def layer(block):
    """nn.TransformerEncoderLayer with the weights of one of our blocks, in evaluation."""
    d, f = block.inner.in_features, block.inner.out_features
    twin = nn.TransformerEncoderLayer(d, block.num_heads, f, batch_first=True, dtype=torch.float64)
    pairs = {
        "self_attn.in_proj_": block.query_key_value, "self_attn.out_proj.": block.output,
        "linear1.": block.inner, "linear2.": block.outer,
        "norm1.": block.attention_norm, "norm2.": block.feed_forward_norm,
    }  # fmt: skip
    ends = ("weight", "bias")
    twin.load_state_dict({f"{name}{end}": getattr(part, end) for name, part in pairs.items() for end in ends})
    return twin.eval()


def position(place, d_model):
    angles = [place * 10_000 ** (-2 * i / d_model) for i in range(d_model // 2)]
    return torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=torch.float64)


def denoise(model, tokens_L, num_steps):
    """Yield (hidden, noise, read) of one sample after 0, 1, ... recursions."""
    d = model.token.shape[1]
    places = torch.stack([position(place, d) for place in range(len(tokens_L))])
    h_LD = model.token[tokens_L] * math.sqrt(d) + places
    encoder, decoder = [layer(block) for block in model.encoder], [layer(block) for block in model.decoder]
    noise = estimate(model.gate, h_LD)
    yield h_LD, noise, _through(decoder, h_LD)
    for _ in range(num_steps):
        h_LD = _through(encoder, h_LD)
        noise = min(noise, estimate(model.gate, h_LD))
        yield h_LD, noise, _through(decoder, h_LD)


def estimate(gate, h_LD):
    return torch.sigmoid(gate.outer(torch.relu(gate.inner(h_LD.mean(0))))).item()


def _through(layers, h_LD):
    for each in layers:
        h_LD = each(h_LD[None])[0]
    return h_LD
