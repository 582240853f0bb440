"""A Connection Transformer small enough for any test, a batch for it, and its training loss written out."""

import torch

from rtx_lab.models.connection_transformer import ConnectionTransformer
from rtx_lab.nn.cross_entropy import linear_cross_entropy

SIZES = {"vocab_size": 31, "max_seq_len": 40, "d_model": 16, "num_slots": 6, "bilinear_rank": 4}
SIZES |= {"max_reasoning_steps": 5, "num_encoder_layers": 1, "num_heads": 2}
B, S, T = 12, 14, 5


def model_of(**changes):
    torch.manual_seed(1)
    return ConnectionTransformer(**SIZES | changes)


def batch_of(seed=0):
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(1, 31, (B, S), generator=generator)
    length = torch.randint(2, S + 1, (B,), generator=generator)
    mask = torch.arange(S)[None] < length[:, None]
    labels = torch.randint(1, 31, (B, T), generator=generator)
    labels[::3, 3:] = -100
    tokens = torch.cat([torch.zeros(B, 1, dtype=torch.int64), labels[:, :-1].clamp_min(0)], dim=1)
    return source * mask, mask, tokens, labels


def loss_of(model, source, mask, tokens, labels):
    memory = model.encode(source, mask)
    hidden = model.decode(memory, tokens)
    weight = (labels != -100).sum(1)
    nll = linear_cross_entropy(hidden, model.output_weight, labels)
    return nll + (model.auxiliary(memory, labels) * weight).sum() + model.penalty() * weight.sum()
