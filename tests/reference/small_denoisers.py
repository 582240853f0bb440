"""Denoisers small enough for any test, a batch for them, and a training loss over a chain written out."""

import torch

from rtx_lab.models.masked_lm import MaskedLanguageModel
from rtx_lab.models.rdt import RecursiveDenoiser
from rtx_lab.models.rdt_seed import SeedDenoiser

SIZES = {"vocab_size": 31, "max_seq_len": 24, "d_model": 16, "n_heads": 2, "d_ff": 40, "n_encoder_layers": 2}
GATE = {"gate_hidden_dim": 12, "gate_num_heads": 4}
B, L = 6, 14


def recursive(**changes):
    torch.manual_seed(1)
    return RecursiveDenoiser(**SIZES | GATE | {"n_decoder_layers": 1, "dropout": 0.0} | changes)


def seed_denoiser(**changes):
    torch.manual_seed(1)
    return SeedDenoiser(**SIZES | {"gate_hidden_dim": 12, "dropout": 0.0} | changes)


def masked(**changes):
    torch.manual_seed(1)
    return MaskedLanguageModel(**SIZES | {"dropout": 0.0} | changes)


def trained(model):
    """Every parameter moved at random, so that nothing is at its start: scales and shifts, biases, norms."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def batch_of(seed=0):
    """Tokens (B, L) and real (B, L); the first row is whole, the others end earlier and go on with any token."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 31, (B, L), generator=generator)
    length = torch.randint(2, L, (B,), generator=generator)
    length[0] = L
    return tokens, torch.arange(L)[None] < length[:, None]


def run_chain(model, tokens, real, noises, fresh=None):
    """Begin and recur once for each noise (B,), or None for the gate's own: the thoughts, and what the head reads."""
    thoughts = [model.begin(tokens, real)]
    for noise in noises:
        thoughts.append(model.advance(thoughts[-1], noise, fresh if len(thoughts) > 1 else None))
    return thoughts, [model.read(thought.hidden_BLD, real) for thought in thoughts[1:]]


def logits_of(model, states):
    logits = states @ model.output_weight.T
    return logits if model.output_bias is None else logits + model.output_bias


def loss_of(model, tokens, real, num_steps=3):
    """Cross entropy of all real tokens after every recursion, and the gate's squared error against a counter."""
    if model.objective != "chain":
        return _nll(model, model.encode(tokens, real), tokens, real)
    noises = [None, torch.full((len(tokens),), 0.4, device=tokens.device), None][:num_steps]
    thoughts, reads = run_chain(model, tokens, real, noises)
    gate = sum((thought.noise_B - 0.9**step).square().sum() for step, thought in enumerate(thoughts))
    return gate + sum(_nll(model, states, tokens, real) for states in reads)


def _nll(model, states, tokens, real):
    nll = torch.nn.functional.cross_entropy(logits_of(model, states).flatten(0, 1), tokens.flatten(), reduction="none")
    return (nll if real is None else nll * real.flatten()).sum()
