"""Options are ranked by the likelihood of their content, in a batch as alone."""

import decoding_by_definition as slow
import pytest
import torch

from rtx_lab.inference.rank import option_log_likelihood, rank_options
from rtx_lab.models.connection_transformer import ConnectionTransformer
from rtx_lab.models.transformer_baseline import TransformerBaseline

SIZES = {"vocab_size": 19, "max_seq_len": 24, "d_model": 16, "num_slots": 6, "bilinear_rank": 4, "num_heads": 2}
START = 1
OPTIONS = [[[3, 4, 2], [5, 2], [7, 7, 7, 2], [2]], [[9, 2], [11, 12, 2]], [[4, 3, 2], [3, 4, 2], [18, 2]]]


def _batch():
    inputs, labels = torch.zeros(3, 4, 4, dtype=torch.int64), torch.full((3, 4, 4), -100)
    mask = torch.zeros(3, 4, dtype=torch.bool)
    for sample, options in enumerate(OPTIONS):
        for place, tokens in enumerate(options):
            labels[sample, place, : len(tokens)] = torch.tensor(tokens)
            inputs[sample, place, : len(tokens)] = torch.tensor([START, *tokens[:-1]])
            mask[sample, place] = True
    return inputs, labels, mask


@pytest.mark.parametrize(
    "build", [lambda: ConnectionTransformer(**SIZES, max_reasoning_steps=4), lambda: TransformerBaseline(**SIZES)]
)
def test_likelihood_equals_its_definition(build):
    torch.manual_seed(0)
    model = build().double().eval()
    source = torch.randint(0, 19, (3, 8))
    memory = model.encode(source, torch.arange(8)[None] < torch.tensor([[8], [3], [5]]))
    inputs, labels, mask = _batch()
    total, mean = rank_options(model, memory, inputs, labels, mask)
    for sample, options in enumerate(OPTIONS):
        for place, tokens in enumerate(options):
            expected = slow.log_likelihood(model, memory.select(torch.tensor([sample])), tokens, start_id=START)
            assert total[sample, place].item() == pytest.approx(expected, abs=1e-10)
            assert mean[sample, place].item() == pytest.approx(expected / len(tokens), abs=1e-10)
    assert (total[~mask] == -torch.inf).all()
    assert (mean[~mask] == -torch.inf).all()


def test_the_right_answer_can_be_measured_like_an_option():
    torch.manual_seed(0)
    model = ConnectionTransformer(**SIZES, max_reasoning_steps=4).eval()
    memory = model.encode(torch.randint(0, 19, (3, 8)), torch.ones(3, 8, dtype=torch.bool))
    inputs, labels, _ = _batch()
    every = option_log_likelihood(model, memory, inputs, labels)
    first = option_log_likelihood(model, memory, inputs[:, :1], labels[:, :1])
    torch.testing.assert_close(first[:, 0], every[:, 0])
    assert not every.requires_grad
