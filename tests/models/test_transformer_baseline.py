"""The baseline has the Connection Transformer's size and contract."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from rtx_lab.core.errors import UsageError
from rtx_lab.models import counts
from rtx_lab.models.connection_transformer import ConnectionTransformer
from rtx_lab.models.transformer_baseline import TransformerBaseline, solve_encoder
from rtx_lab.nn.cross_entropy import linear_cross_entropy

TINY = {"vocab_size": 31, "max_seq_len": 40, "d_model": 16, "num_slots": 12, "bilinear_rank": 4, "num_heads": 2}


def _model(**changes):
    torch.manual_seed(1)
    return TransformerBaseline(**TINY | changes)


def _source():
    source = torch.randint(1, 31, (6, 10), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(10)[None] < torch.tensor([10, 3, 7, 1, 5, 10])[:, None]
    return source, mask


@pytest.mark.parametrize("connection", ["diag", "core", "dense", "scalar"])
@pytest.mark.parametrize(
    "sizes",
    [
        {"d_model": 64, "num_slots": 32, "bilinear_rank": 8, "num_encoder_layers": 1},
        {"d_model": 64, "num_slots": 512, "bilinear_rank": 8},
        {"d_model": 256, "num_slots": 128, "bilinear_rank": 32, "num_decoder_layers": 2},
        {"d_model": 512, "num_slots": 256, "bilinear_rank": 64, "num_heads": 8},
    ],
)
def test_parameters_match_within_two_per_cent(connection, sizes):
    sizes = {"vocab_size": 500, "num_heads": 4, "connection": connection} | sizes
    with torch.device("meta"):
        ours = counts.count_parameters(TransformerBaseline(**sizes))
        theirs = counts.count_parameters(ConnectionTransformer(**sizes, max_reasoning_steps=6))
    assert abs(ours / theirs - 1) <= 0.02


def test_depth_stays_usable():
    num_layers, d_ff = solve_encoder(270_000_000, 256)
    assert num_layers == 12
    assert d_ff > 4 * 256
    with pytest.raises(UsageError, match="no transformer encoder of width 256"):
        solve_encoder(1000, 256)


def test_contract_without_reasoning_steps():
    model = _model().eval()
    source, mask = _source()
    memory = model.encode(source, mask)
    assert model.max_steps == 0
    assert (memory.steps == 0).all()
    assert memory.states.shape == (6, 10, 16)
    assert torch.equal(model.auxiliary(memory, source), torch.zeros(6))
    assert model.penalty() == 0
    assert model.connection_strength() is None


def test_padding_changes_nothing():
    model = _model().double().eval()
    source, mask = _source()
    tokens = source[:, :4]
    hidden = model.decode(model.encode(source, mask), tokens)
    other = torch.cat([torch.where(mask, source, 9), torch.full((6, 5), 4)], dim=1)
    padded = model.encode(other, torch.cat([mask, torch.zeros(6, 5, dtype=torch.bool)], dim=1))
    torch.testing.assert_close(model.decode(padded, tokens), hidden, rtol=0, atol=1e-12)


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = _model(dropout=0.1).double()
        model.gradient_checkpointing = checkpointing
        torch.manual_seed(2)
        source, mask = _source()
        linear_cross_entropy(model.decode(model.encode(source, mask), source), model.output_weight, source).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0].isfinite().all()


def test_saved_model_is_bit_equal(tmp_path):
    model = _model()
    model.save_pretrained(tmp_path)
    loaded = TransformerBaseline.from_pretrained(tmp_path)
    for value, copy in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True):
        assert torch.equal(value, copy)


def test_traces_on_fake_tensors_and_does_not_touch_the_generator():
    with FakeTensorMode(allow_non_fake_inputs=False):
        model = _model()
        ids = torch.empty(6, 10, dtype=torch.int64)
        memory = model.encode(ids, torch.empty(6, 10, dtype=torch.bool))
        linear_cross_entropy(model.decode(memory, ids), model.output_weight, ids).backward()
    assert model.output_weight.grad.shape == (31, 16)


def test_wrong_parameters_are_named():
    with pytest.raises(UsageError, match=r"model.num_slots must be a positive integer, got -4"):
        _model(num_slots=-4)
