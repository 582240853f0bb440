"""Halting as its definition says: one sample at a time, with an ordinary break."""

import torch


def reason_alone(model, source, mask):
    """Return (steps, state (N, D)) of a single sample (1, S) in evaluation, threshold on the readout's KL."""
    x = model.embedding.source(source)
    if model.encoder is not None:
        x = model.encoder(x, mask)
    state, _ = model.compression(x, mask)
    before = _readout(model, state)
    steps = 0
    while steps < model.max_steps:
        steps += 1
        state = model.step_norms[0](state + torch.relu(model.connection(state)))
        after = _readout(model, state)
        if torch.nn.functional.kl_div(before, after, log_target=True, reduction="sum") <= model.halting.threshold:
            break
        before = after
    return steps, state[0]


def _readout(model, state):
    return torch.log_softmax(model.readout.pool(state) @ model.output_weight.T, dim=-1)
