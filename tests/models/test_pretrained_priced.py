"""Pricing the pretrained models: shapes are enough, and the traced peak is the measured one."""

import runpy
from pathlib import Path

import pytest
import torch
import yaml
from small_seq2seq import KINDS, LORA, batch_of, logits_of, small
from torch._subclasses.fake_tensor import FakeTensorMode

from rtx_lab.models.counts import count_parameters, count_weights
from rtx_lab.models.pretrained import PretrainedSeq2Seq

ROOT = Path(__file__).parents[2]
MODELS = ("mt5_xlsum", "t5_korean", "kobart", "tiny_t5", "tiny_mt5", "tiny_bart")


def weightless(name, **changes):
    """A model of the configuration on the meta device."""
    node = yaml.safe_load((ROOT / "conf" / "model" / f"{name}.yaml").read_text(encoding="utf-8"))
    arguments = {key: value for key, value in node.items() if not key.startswith("_")}
    with torch.device("meta"):
        return PretrainedSeq2Seq(**arguments | changes)


@pytest.mark.parametrize("name", MODELS)
def test_every_configuration_builds_without_its_checkpoint(name):
    text = (ROOT / "conf" / "model" / f"{name}.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) < 25
    assert lines[0].startswith("# ")
    assert f"python train.py model={name} " in lines[0]
    assert count_weights(weightless(name)) > 0


def test_published_totals():
    """mT5-base and KoBART as their model cards count them; adapters and new rows by hand."""
    assert count_weights(weightless("mt5_xlsum", lora_rank=None, quantize="none")) == 582_401_280
    assert count_weights(weightless("kobart")) == 123_859_968
    adapted = weightless("mt5_xlsum", vocab_size=250_111)
    blocks = 12 * (4 * 2 * 768 + 3 * (768 + 2048)) + 12 * (8 * 2 * 768 + 3 * (768 + 2048))
    assert count_parameters(adapted) == 48 * blocks + 2 * 11 * 768


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("storage", ["none", "bf16", "int8", "nf4"])
def test_a_trace_has_the_shapes_and_bytes_of_the_real_model(kind, storage):
    changes = LORA | {"quantize": storage, "d_model": 32, "d_ff": 64}
    real = small(kind, **changes)
    with FakeTensorMode() as fake:
        model = PretrainedSeq2Seq(**{**real.arguments})
    for own, other in (
        (real.named_parameters(), model.named_parameters()),
        (real.named_buffers(), model.named_buffers()),
    ):
        assert {n: (v.shape, v.dtype) for n, v in own} == {n: (v.shape, v.dtype) for n, v in other}
    model.gradient_checkpointing = True
    batch = batch_of(real)
    with fake, torch.autocast("cpu", dtype=torch.bfloat16):
        logits = logits_of(model, {key: fake.from_tensor(value) for key, value in batch.items()})
        logits.sum().backward()
    assert logits.shape == logits_of(real, batch).shape
    assert all(value.grad is not None for value in model.parameters() if value.requires_grad)


@pytest.mark.parametrize("changes", [{"quantize": kept, "lora_rank": 8} for kept in ("none", "int8", "nf4")] + [{}])
def test_the_traced_peak_is_the_measured_one(changes):
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "qlora_memory.py"))
    shape = (4, 64, 16)
    arguments = {**benchmark["SMALL"], "n_encoder_layers": 2, "n_decoder_layers": 2, **changes}
    guess = benchmark["predicted"](arguments, shape, cuda=False)["peak"]
    assert guess == pytest.approx(benchmark["measured"](arguments, shape), rel=0.05)
