"""Closed-form parameter counts equal counted ones, and reproduce the published totals."""

import parameter_formulas as formulas
import pytest
import torch

from rtx_lab.models import counts
from rtx_lab.models.connection_transformer import ConnectionTransformer
from rtx_lab.nn.connections import CONNECTIONS, build_connection

BASE = {"num_slots": 128, "d_model": 256, "bilinear_rank": 32}
LARGE = {"num_slots": 256, "d_model": 512, "bilinear_rank": 64}


@pytest.mark.parametrize("connection", CONNECTIONS)
@pytest.mark.parametrize("sizes", [BASE, LARGE])
def test_pair_maps_have_as_many_parameters_as_counted(connection, sizes):
    with torch.device("meta"):
        module = build_connection(connection, **sizes)
    assert counts.count_parameters(module) == formulas.pair_parameters(connection, **sizes)


def test_published_totals():
    assert formulas.pair_parameters("dense", **BASE) == 268_435_456
    assert formulas.pair_parameters("dense", **LARGE) == 4_294_967_296
    assert formulas.pair_parameters("diag", **BASE) == 2 * 128 * 256 * 32 + 128**2 * 32
    assert formulas.pair_parameters("core", **BASE) == 18_874_368
    tables = {"vocab_size": 32000, "max_seq_len": 512}
    assert formulas.original_parameters(**BASE, **tables, max_reasoning_steps=6) == 285_346_816
    assert formulas.original_parameters(**LARGE, **tables, max_reasoning_steps=8) == 4_329_578_496


@pytest.mark.parametrize("connection", CONNECTIONS)
@pytest.mark.parametrize("layers", [0, 2])
def test_whole_model(connection, layers):
    sizes = {**LARGE, "vocab_size": 32000, "max_seq_len": 512, "connection": connection}
    sizes |= {"num_encoder_layers": layers, "num_decoder_layers": 3, "num_heads": 8}
    with torch.device("meta"):
        model = ConnectionTransformer(**sizes, max_reasoning_steps=8)
    assert counts.count_parameters(model) == formulas.connection_transformer_parameters(**sizes)
