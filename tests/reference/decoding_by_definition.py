"""Decoding as its definition says: one sample at a time, the whole prefix again for every token, nothing cached."""

import itertools

import torch


@torch.no_grad()
def next_log_probs(model, memory, prefix):
    hidden = model.decode(memory, torch.tensor([prefix]))
    return torch.log_softmax(hidden[0, -1] @ model.output_weight.T, dim=-1)


def greedy(model, memory, *, start_id, eos_id, max_tokens):
    """Return the token ids of one sample, eos included."""
    written = []
    while len(written) < max_tokens and eos_id not in written:
        written.append(int(next_log_probs(model, memory, [start_id, *written]).argmax()))
    return written


def log_likelihood(model, memory, tokens, *, start_id):
    """Return the summed log-probability of a sequence of tokens."""
    prefixes = (tokens[:position] for position in range(len(tokens)))
    return sum(
        float(next_log_probs(model, memory, [start_id, *prefix])[token])
        for prefix, token in zip(prefixes, tokens, strict=True)
    )


def best_sequence(model, memory, *, start_id, eos_id, max_tokens, length_penalty, vocab_size):
    """Return the best of all sequences that end with eos, or are `max_tokens` long, by log p / length ** penalty."""
    sequences = [
        list(tokens)
        for length in range(1, max_tokens + 1)
        for tokens in itertools.product(range(vocab_size), repeat=length)
        if eos_id not in tokens[:-1] and (tokens[-1] == eos_id or length == max_tokens)
    ]
    values = [log_likelihood(model, memory, s, start_id=start_id) / len(s) ** length_penalty for s in sequences]
    return sequences[max(range(len(values)), key=values.__getitem__)]
