"""Causal models of transformers: from shapes, from a folder, and what does not fit together, refused by key."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from rtx_lab.core import checkpoint
from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.models.causal_base import EMBEDDING_STD, build_causal, completed
from rtx_lab.models.latent_memory import LatentMemory

MODELS = os.environ.get("RTX_LAB_MODELS")
needs_models = pytest.mark.skipif(not MODELS, reason="RTX_LAB_MODELS is not set")
SHAPES = {
    "architecture": "qwen2", "vocab_size": 40, "d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2,
    "d_ff": 48, "max_seq_len": 64, "rope_theta": 5000.0,
}  # fmt: skip
STORIES = {
    "architecture": "llama", "vocab_size": 512, "d_model": 64, "n_layers": 5, "n_heads": 8, "n_kv_heads": 4,
    "d_ff": 172, "max_seq_len": 512, "norm_eps": 1e-5,
}  # fmt: skip
LATENTS = {"prompt_latents_len": 2, "inference_latents_len": 2, "lora_rank": 2}


def memory(**changes):
    torch.manual_seed(0)
    return LatentMemory(**(SHAPES | LATENTS | changes)).eval()


def written(folder, **changes):
    """A folder with a model of transformers of these shapes, as the hub holds it."""
    network = memory(**changes).arguments | {"quantize": "none"}
    torch.manual_seed(5)
    build_causal(completed(network)).save_pretrained(folder, safe_serialization=True)
    return str(folder)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama", "mistral"])
def test_shapes_alone_make_the_model_they_name(architecture):
    model = memory(architecture=architecture, n_kv_heads=None, head_dim=6, tied_head=False, embedding_rows=44)
    config = model.network.config
    assert type(model.network).__name__.lower() == f"{architecture}forcausallm"
    attention = model.network.model.layers[0].self_attn
    assert attention.q_proj.weight.shape == (24, 32)
    assert attention.k_proj.weight.shape == (24, 32)
    assert (config.vocab_size, config.max_position_embeddings) == (44, 64)
    assert model.output_weight.shape == (40, 32)
    assert len(model.network.model.layers) == 2
    assert not config.tie_word_embeddings
    assert model.network.get_input_embeddings().weight.std().item() == pytest.approx(EMBEDDING_STD, rel=0.1)
    assert not any(param.requires_grad for param in model.network.parameters())
    inverse = model.network.model.rotary_emb.inv_freq
    torch.testing.assert_close(inverse, 5000.0 ** -(torch.arange(0, 6, 2) / 6), rtol=1e-6, atol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_a_checkpoint_is_read_and_kept_out_of_ours(tmp_path, tied):
    folder = written(tmp_path / "base", tied_head=tied)
    model, other = (memory(checkpoint=folder, tied_head=tied) for _ in range(2))
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()
    ids = torch.arange(8)[None]
    assert torch.equal(model.network(ids).logits, plain(ids).logits)
    assert not torch.equal(memory(tied_head=tied).network(ids).logits, plain(ids).logits)
    base = {id(param) for param in model.parts()["base"]}
    names = {name for name, param in model.named_parameters() if id(param) in base}
    assert names
    assert not names & model.state_dict().keys()
    assert {name for name, _ in model.named_parameters()} - names == model.state_dict().keys()
    with torch.no_grad():
        for param in model.parts()["weaver"]:
            param.add_(1)
    checkpoint.load_weights(other, checkpoint.save(checkpoint.Store(folder=tmp_path / "c"), {"step": 1}, model))
    for own, wanted in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.equal(own, wanted)
    with pytest.raises(RuntimeError, match=r"gain"):
        other.load_state_dict({name: value for name, value in model.state_dict().items() if name != "gain"})


def test_other_shapes_are_refused_with_the_keys_to_set(tmp_path):
    folder = written(tmp_path)
    with pytest.raises(UsageError) as caught:
        memory(checkpoint=folder, d_ff=64, n_layers=3, embedding_rows=64, architecture="llama")
    for words in ("model.d_ff=48", "model.n_layers=2", "model.embedding_rows=40", "model.architecture=qwen2"):
        assert words in str(caught.value)
    assert "d_model" not in str(caught.value)
    config = json.loads(Path(folder, "config.json").read_text())
    windows = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0, "layer_types": None}
    Path(folder, "config.json").write_text(json.dumps(config | windows))
    with pytest.raises(UsageError, match="looks back over a window only"):
        memory(checkpoint=folder)


def test_a_folder_without_weights_or_configuration_says_so(tmp_path):
    with pytest.raises(RunError, match=r"cannot be read .*: set model.checkpoint="):
        memory(checkpoint=str(tmp_path / "nothing"))
    folder = Path(written(tmp_path / "base"))
    (folder / "model.safetensors").unlink()
    shutil.copy(__file__, folder / "pytorch_model.bin")  # never unpickled
    with pytest.raises(RunError, match=r"the weights of .* cannot be read .*: set model.checkpoint="):
        memory(checkpoint=str(folder))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"d_model": None, "n_layers": None}, ["model.d_model is missing", "model.n_layers is missing"]),
        ({"n_heads": 0, "d_ff": -1}, ["n_heads", "d_ff"]),
        ({"n_kv_heads": 3}, ["n_kv_heads"]), ({"head_dim": 7}, ["head_dim must be even"]),
        ({"embedding_rows": 30}, ["vocab_size"]), ({"quantize": "int3"}, ["quantize"]),
        ({"architecture": "bird"}, ["model.architecture=bird is no model type"]),
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_refused(changes, words):
    with pytest.raises(UsageError) as caught:
        memory(**changes)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("quantize", ["bf16", "int8", "nf4"])
def test_a_packed_checkpoint_is_near_the_whole_one(tmp_path, quantize):
    folder = written(tmp_path, d_model=64, d_ff=128)
    packed, whole = (memory(checkpoint=folder, d_model=64, d_ff=128, quantize=kept) for kept in (quantize, "none"))
    ids = torch.arange(30)[None]
    real = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        found, wanted = (
            model.logits(model.read(model.begin(1, weaves=False, decides=False), model.embed(ids), real))
            for model in (packed, whole)
        )
    assert (found - wanted).norm() < {"bf16": 0.02, "int8": 0.03, "nf4": 0.4}[quantize] * wanted.norm()
    assert not torch.equal(found, wanted)
    assert packed.output_weight.dtype == torch.bfloat16
    assert {param.dtype for part in ("weaver", "tuned", "trigger", "prompt") for param in packed.parts()[part]} == {
        torch.float32
    }


@needs_models
@pytest.mark.parametrize("context", ["shared_kv", "hidden", "embeds"])
def test_a_real_model_reads_as_transformers_does(context):
    folder = str(Path(MODELS or "") / "stories260K")
    model = LatentMemory(**STORIES, checkpoint=folder, weaver_context=context).eval()
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()
    ids = torch.tensor([[1, 403, 407, 261, 378, 432, 383]])
    with torch.no_grad():
        wanted = plain(ids).logits
        assert torch.equal(model.network(ids).logits, wanted)
        reading = model.begin(1, weaves=True, decides=False)
        found = model.logits(model.read(reading, model.embed(ids), torch.ones_like(ids, dtype=torch.bool)))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
        woven = model.weave(reading, "prompt")
    table = model.network.get_input_embeddings().weight
    torch.testing.assert_close(woven.pow(2).mean().sqrt(), table.pow(2).mean().sqrt(), rtol=1e-2, atol=0)
    assert all(not name.startswith("network.model.embed") for name in model.state_dict())
