"""A batch of padded texts with masks, and models that remember what they were asked."""

from types import SimpleNamespace

import pytest
import torch

MASK_ID, NUM_TEXTS, LENGTH, VOCAB = 4, 24, 14, 31


@pytest.fixture
def texts():
    """Tokens, masked, real (B, L) and seed (B,). Text 0 is whole and masked but for its start, text 1 has no mask."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(5, VOCAB, (NUM_TEXTS, LENGTH), generator=generator)
    length = torch.randint(3, LENGTH + 1, (NUM_TEXTS,), generator=generator)
    length[0] = LENGTH
    real = torch.arange(LENGTH) < length[:, None]
    masked = (torch.rand(NUM_TEXTS, LENGTH, generator=generator) < torch.rand(NUM_TEXTS, 1, generator=generator)) & real
    masked[0], masked[1] = True, False
    masked[:, 0] = False  # of masks alone, all positions are alike: rotary ones are relative
    seed = torch.randint(2**62, (NUM_TEXTS,), generator=generator)
    return SimpleNamespace(
        batch=(tokens, masked, real), tokens=tokens, masked=masked, real=real, seed=seed, lengths=length.tolist()
    )


class Recorded:
    """A masked language model that keeps the texts of every pass."""

    def __init__(self, model):
        self.model, self.passes = model, []
        self.output_weight, self.output_bias = model.output_weight, model.output_bias

    def encode(self, tokens, real):
        self.passes.append(tokens.clone())
        return self.model.encode(tokens, real)


@pytest.fixture
def recorded():
    return Recorded
