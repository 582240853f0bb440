"""Frozen weights in few bits: the numbers of bitsandbytes, and QLoRA from the first step to the last for real."""

import pytest
import torch
from small_seq2seq import KINDS, LORA, batch_of, logits_of, loss_of, small
from torch import nn

from rtx_lab.core import checkpoint
from rtx_lab.models.pretrained_export import export_merged
from rtx_lab.models.quantised import FrozenLinear, freeze_linears

KEPT = ["bf16", "int8", "nf4"]
SIZES = {"d_model": 64, "d_ff": 128, "n_heads": 4}
"""Wide enough for blocks of 64 weights."""


def layer(bias=True, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(96, 80, bias=bias)


def trained(model, batch, steps, lr=0.02):
    """Losses per token of training steps, with an evaluation between any two of them."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for _ in range(steps):
        model.eval()
        with torch.no_grad():
            loss_of(model, batch)
        model.train()
        loss = loss_of(model, batch) / (batch["labels"] != -100).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_nf4_is_what_bitsandbytes_computes():
    import bitsandbytes as bnb

    source = layer()
    theirs = bnb.nn.Linear4bit(96, 80, compute_dtype=torch.bfloat16, quant_type="nf4")
    theirs.load_state_dict(source.state_dict())
    theirs = theirs.to("cpu").train()
    theirs.support_avx512bf16_for_cpu = False
    ours = FrozenLinear(source, "nf4")
    dense = bnb.functional.dequantize_4bit(theirs.weight.data, theirs.weight.quant_state)
    assert torch.equal(ours.dense().float(), dense.to(torch.bfloat16).float())
    x = torch.randn(7, 96, requires_grad=True)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=2e-2)


def test_int8_keeps_the_rows_that_bitsandbytes_keeps():
    from bitsandbytes import functional

    source = layer()
    codes, scale_O, _ = functional.int8_vectorwise_quant(source.weight.detach().half())
    ours = FrozenLinear(source, "int8")
    assert (ours.codes.int() - codes.int()).abs().max() <= 1, "theirs starts from half precision"
    torch.testing.assert_close(ours.scale[:, 0], scale_O / 127, rtol=1e-3, atol=0)


def test_int8_of_half_weights_keeps_their_sign():
    """The largest of a row, divided by its scale in half precision, would be 128: -128 as int8."""
    source = layer(bias=False)
    frozen = FrozenLinear(source.bfloat16(), "int8")
    error = (frozen.dense().float() - source.weight.float()).abs().max()
    assert error <= source.weight.abs().max() / 100
    assert frozen.scale.dtype == torch.float32


@pytest.mark.parametrize(("storage", "worst"), [("bf16", 0.004), ("int8", 0.006), ("nf4", 0.12)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_frozen_layer_is_near_the_one_it_was_made_from(storage, worst, bias):
    source = layer(bias)
    frozen = FrozenLinear(source, storage)
    x = torch.randn(2, 5, 96, requires_grad=True)
    y = frozen(x)
    assert y.dtype == torch.float32
    assert (y - source(x)).norm() <= worst * source(x).norm()
    y.sum().backward()
    expected = frozen.dense().float().sum(0).expand_as(x)
    torch.testing.assert_close(x.grad, expected, rtol=0.02, atol=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert frozen(x).dtype == torch.bfloat16
    assert not list(frozen.parameters())


@pytest.mark.parametrize(("storage", "bits"), [("bf16", 16), ("int8", 8), ("nf4", 4.127)])
def test_bits_of_a_weight_with_and_without_memory(storage, bits):
    held = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            frozen = FrozenLinear(nn.Linear(1024, 512, bias=False), storage)
        held.append(sum(buffer.nbytes for buffer in frozen.buffers()))
    assert held[0] == held[1]
    assert bits <= 8 * held[0] / (1024 * 512) < bits * 1.01 + 0.05


def test_freezing_replaces_linear_layers_and_nothing_else():
    model = nn.Sequential(layer(), nn.LayerNorm(80), nn.Sequential(nn.Embedding(3, 4), nn.Linear(80, 8)))
    freeze_linears(model, "none")
    assert type(model[0]) is nn.Linear
    freeze_linears(model, "int8")
    kinds = [type(module).__name__ for module in model.modules() if not list(module.children())]
    assert kinds == ["FrozenLinear", "LayerNorm", "Embedding", "FrozenLinear"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("storage", KEPT)
def test_qlora_learns_with_evaluations_in_between_and_goes_on_after_a_load(kind, storage, tmp_path):
    changes = LORA | SIZES | {"quantize": storage, "lora_dropout": 0.0}
    model = small(kind, **changes)
    batch = batch_of(model)
    losses = trained(model, batch, steps=12)
    assert losses[-1] < 0.7 * losses[0]
    place = checkpoint.save(checkpoint.Store(folder=tmp_path / "c"), {"step": 1, "best": None}, model)
    other = small(kind, seed=9, **changes)
    checkpoint.load_weights(other, place)
    assert torch.equal(loss_of(other, batch), loss_of(model, batch))
    assert trained(other, batch, steps=2) == trained(model, batch, steps=2)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_qlora_merges_into_the_full_precision_base_and_writes(kind, tmp_path):
    from transformers import AutoModelForSeq2SeqLM

    model = small(kind, **LORA, **SIZES, quantize="nf4")
    batch = batch_of(model)
    trained(model, batch, steps=3)
    written = model.write(model.eval().encode(batch["source"], batch["source_mask"]), num_beams=2, max_new_tokens=5)
    assert written.shape[0] == len(batch["source"])
    export_merged(model, tmp_path)
    full = small(kind, **LORA, **SIZES)
    full.load_state_dict(model.state_dict())
    plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    found = plain(
        input_ids=batch["source"], attention_mask=batch["source_mask"].long(),
        decoder_input_ids=batch["decoder_input"],
    )  # fmt: skip
    torch.testing.assert_close(found.logits, logits_of(full.eval(), batch), rtol=0, atol=2e-5)
    far = (logits_of(model, batch) - found.logits).norm() / found.logits.norm()
    assert far < 0.2, "4 bits are near the weights that they stand for"


@pytest.mark.parametrize("storage", KEPT)
def test_bf16_autocast_is_near_float32(storage):
    model = small("mt5", **LORA, **SIZES, quantize=storage).eval()
    batch = batch_of(model)
    plain = logits_of(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = logits_of(model, batch)
    assert (plain - half).norm() <= 0.05 * plain.norm()
