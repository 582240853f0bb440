"""Checkpoints that are loaded and folders that are exported: plain transformers and peft are on the other side."""

import pytest
import torch
from small_seq2seq import KINDS, LORA, batch_of, logits_of, small

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.models.pretrained_export import export_adapter, export_merged


def plain_logits(model, batch):
    return model.eval()(
        input_ids=batch["source"], attention_mask=batch["source_mask"].long(),
        decoder_input_ids=batch["decoder_input"], use_cache=False,
    ).logits  # fmt: skip


def stirred(model):
    """A model whose trained tensors are all different from what they started as."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value += 0.05 * torch.randn(value.shape, generator=generator)
    return model.eval()


def run_lines(lines):
    """What a user gets who types the lines of an export."""
    names = {}
    exec("\n".join(lines), names)
    return names["model"]


@pytest.fixture
def saved(tmp_path):
    """A folder with a checkpoint as transformers saves it."""

    def make(kind, **changes):
        model = small(kind, **changes)
        model.network.save_pretrained(tmp_path / "hub")
        return tmp_path / "hub", model

    return make


TABLE = {"lora_targets": ["lm_head", "embed_tokens"], "lora_rank": 3}
WAYS = [{}, LORA, TABLE, LORA | TABLE]


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("changes", WAYS)
def test_a_merged_folder_is_the_model(kind, changes, tmp_path):
    model = stirred(small(kind, **changes))
    batch = batch_of(model)
    found = plain_logits(run_lines(export_merged(model, tmp_path)), batch)
    torch.testing.assert_close(found, logits_of(model, batch), rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("changes", [LORA, TABLE, {"lora_rank": 2, "vocab_size": 54}])
def test_an_adapter_folder_is_the_model_for_peft(kind, changes, tmp_path):
    model = stirred(small(kind, **changes))
    batch = batch_of(model)
    loaded = run_lines(export_adapter(model, tmp_path))
    torch.testing.assert_close(plain_logits(loaded, batch), logits_of(model, batch), rtol=0, atol=2e-5)
    size = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert size < 4 * sum(value.numel() for value in model.parameters())


def test_what_peft_cannot_hold_is_refused(tmp_path):
    with pytest.raises(UsageError, match="peft cannot hold new tokens and adapters of the same table"):
        export_adapter(small("mt5", **LORA | TABLE), tmp_path)
    with pytest.raises(UsageError, match="has no adapters"):
        export_adapter(small("mt5"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_checkpoint_is_loaded_and_grows_rows_for_new_tokens(kind, saved, tmp_path):
    folder, origin = saved(kind)
    model = small(kind, seed=4, checkpoint=str(folder), vocab_size=60)
    assert model.network.config.vocab_size == 64
    batch = batch_of(origin)
    torch.testing.assert_close(logits_of(model, batch)[..., :53], logits_of(origin, batch), rtol=0, atol=1e-5)
    weight = model.network.get_input_embeddings().weight
    spread = weight[:53].std(0)
    assert ((weight[53:] - weight[:53].mean(0)).abs() < 0.2 * spread).all(), "new rows start near the mean"
    assert weight[53].ne(weight[54]).any()
    again = small(kind, seed=5, checkpoint=str(folder), vocab_size=60)
    assert torch.equal(weight, again.network.get_input_embeddings().weight)
    adapted = stirred(small(kind, checkpoint=str(folder), vocab_size=60, lora_rank=2))
    for way in (export_adapter, export_merged):
        found = plain_logits(run_lines(way(adapted, tmp_path / way.__name__)), batch)
        torch.testing.assert_close(found[..., :60], logits_of(adapted, batch)[..., :60], rtol=0, atol=2e-5)


def test_a_checkpoint_with_spare_rows_is_not_resized(saved):
    folder, origin = saved("mt5", tokenizer_size=50, embedding_rows=53)
    model = small("mt5", checkpoint=str(folder), tokenizer_size=50, embedding_rows=53, vocab_size=52)
    assert model.network.config.vocab_size == 53
    own, theirs = model.network.get_input_embeddings().weight, origin.network.get_input_embeddings().weight
    assert torch.equal(own[:50], theirs[:50])
    assert own[50:].ne(theirs[50:]).all()


def test_other_shapes_are_refused_with_the_keys_to_set(saved):
    folder, _ = saved("t5")
    with pytest.raises(UsageError, match=r"set model\.d_model=16 model\.d_ff=24 model\.n_encoder_layers=2$"):
        small("t5", checkpoint=str(folder), d_model=32, n_heads=2, d_kv=8, d_ff=25, n_encoder_layers=3)
    with pytest.raises(UsageError, match=r"model\.gated=false"):
        small("t5_gated", checkpoint=str(folder), tied_head=True)
    with pytest.raises(UsageError, match=r"model\.tied_head=true"):
        small("t5", checkpoint=str(folder), tied_head=False)
    with pytest.raises(UsageError, match=r"is a t5 and model\.architecture is bart"):
        small("bart", checkpoint=str(folder))


def test_broken_and_absent_checkpoints_are_one_sentence(saved, tmp_path):
    folder, _ = saved("bart")
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"^the weights of .* cannot be read .*: set model.checkpoint="):
        small("bart", checkpoint=str(folder))
    (folder / "config.json").write_text("[]")
    with pytest.raises(UsageError, match="holds no configuration"):
        small("bart", checkpoint=str(folder))
    with pytest.raises(RunError, match=r"model\.checkpoint=<folder that holds it>"):
        small("bart", checkpoint="nobody/nothing")


def test_a_checkpoint_is_not_looked_for_where_shapes_are_enough():
    with torch.device("meta"):
        model = small("mt5", checkpoint="nobody/nothing", lora_rank=2, quantize="nf4")
    assert all(value.is_meta for value in [*model.parameters(), *model.buffers()])
