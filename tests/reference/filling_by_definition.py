"""Filling in masked tokens as the definitions say: one sample, one token at a time, all logits, ordinary breaks."""

import math

import masks_by_definition as masks
import torch

from rtx_lab.nn.masking import alpha


def log_probs(model, states_LD, mask_id):
    """Log-probabilities (L, V) without the mask token."""
    logits = states_LD @ model.output_weight.T
    if model.output_bias is not None:
        logits = logits + model.output_bias
    logits[:, mask_id] = -math.inf
    return torch.log_softmax(logits, dim=-1)


def blank(tokens, masked, mask_id):
    return [mask_id if hidden else token for token, hidden in zip(tokens.tolist(), masked.tolist(), strict=True)]


@torch.no_grad()
def refine_alone(model, tokens, masked, *, mask_id, max_steps, threshold, fixed_steps=None):
    """Return (tokens, steps) of one sample without padding."""
    written, left = blank(tokens, masked, mask_id), [p for p, hidden in enumerate(masked.tolist()) if hidden]
    thought, steps = model.begin(torch.tensor([written]), None), 0
    while left and steps < (fixed_steps or max_steps):
        if steps and not fixed_steps and thought.noise_B.item() <= threshold:
            break
        fresh = None
        if steps and model.commit:
            scores = log_probs(model, model.read(thought.hidden_BLD, None)[0], mask_id)
            surest = sorted(left, key=lambda p: -scores[p].max().item())
            for position in surest[: math.ceil(len(written) / model.total_steps)]:
                written[position] = scores[position].argmax().item()
                left.remove(position)
            fresh = torch.tensor([written])
            if not left:
                break
        thought = model.advance(thought, None, fresh)
        steps += 1
    guesses = log_probs(model, model.read(thought.hidden_BLD, None)[0], mask_id).argmax(1).tolist()
    return [guesses[p] if p in left else token for p, token in enumerate(written)], steps


@torch.no_grad()
def mask_predict_alone(model, tokens, masked, *, mask_id, num_iterations):
    """Return (tokens, passes) of one sample without padding."""
    places = [p for p, hidden in enumerate(masked.tolist()) if hidden]
    written, sure, passes = blank(tokens, masked, mask_id), {}, 0
    for iteration in range(num_iterations):
        count = math.floor(len(places) * (num_iterations - iteration) / num_iterations + 1e-9)
        if not count:
            break
        again = sorted(places, key=lambda p: sure.get(p, -math.inf))[:count]
        for position in again:
            written[position] = mask_id
        scores = log_probs(model, model.encode(torch.tensor([written]), None)[0], mask_id)
        for position in again:
            sure[position], written[position] = scores[position].max().item(), scores[position].argmax().item()
        passes += 1
    return written, passes


def gumbel(seed, position, token, stream):
    bits = masks.scramble(masks.word_of(seed, position, stream) + (token + 1) * masks.GOLDEN) >> 11
    return -math.log(-math.log1p(-(bits + 0.5) / 2**53))


@torch.no_grad()
def reverse_alone(model, tokens, masked, seed, *, mask_id, num_steps, noise_schedule, reveals, choices):
    """Return (tokens, passes) of one sample without padding; `reveals` and `choices` number the streams of the seed."""
    written, left, passes = blank(tokens, masked, mask_id), [p for p, hidden in enumerate(masked.tolist()) if hidden], 0
    for step in range(num_steps):
        alpha_t = float(alpha(noise_schedule, 1 - step / num_steps))
        alpha_s = float(alpha(noise_schedule, 1 - (step + 1) / num_steps))
        if not left:
            break
        scores = log_probs(model, model.encode(torch.tensor([written]), None)[0], mask_id)
        passes += 1
        for position in list(left):
            # given that it is still masked, u / (1 - alpha_t) is uniform
            conditional = masks.uniform_of(seed, position, reveals) / (1 - alpha_t)
            if 1 - conditional <= (alpha_s - alpha_t) / (1 - alpha_t) or step == num_steps - 1:
                noisy = [p + gumbel(seed, position, v, choices) for v, p in enumerate(scores[position].tolist())]
                written[position] = max(range(len(noisy)), key=noisy.__getitem__)
                left.remove(position)
    return written, passes
