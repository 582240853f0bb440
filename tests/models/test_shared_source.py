"""Beams that share their source: the same numbers and texts as with a copy for every beam, and one copy held."""

import pytest
import torch
from small_seq2seq import KINDS, LORA, batch_of, small

from rtx_lab.models import shared_bias, shared_source

BEAMS = 4
HOW = {"num_beams": BEAMS, "max_new_tokens": 12, "min_new_tokens": 6, "no_repeat_ngram_size": 3}


def sharp(kind, **changes):
    """A model in float64 that has opinions, and those depend on the source."""
    model = small(kind, 1, **changes).double().eval()
    with torch.no_grad():
        model.network.lm_head.weight *= 3.0
        for _, _, to_value in shared_source._layers(model.network.get_decoder()):
            to_value.weight.mul_(1000.0)
    return model


def of_transformers(model, batch, **how):
    """What transformers writes with caches of its own: every beam has its copy of the source."""
    never = [*range(model.arguments["vocab_size"], model.network.config.vocab_size), model.pad_id]
    ids = model.network.generate(
        input_ids=batch["source"], attention_mask=batch["source_mask"].long(), pad_token_id=model.pad_id,
        eos_token_id=model.eos_id, decoder_start_token_id=model.decoder_start_id, suppress_tokens=never, **how,
    )[:, 1:]  # fmt: skip
    is_end = ids == model.eos_id
    return ids.masked_fill(is_end.cumsum(1) - is_end.long() > 0, model.pad_id)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("how", [HOW, {**HOW, "length_penalty": 2.0}, {"max_new_tokens": 12, "min_new_tokens": 6}])
@pytest.mark.parametrize("changes", [{}, LORA])
@pytest.mark.parametrize("padded", [True, False])
def test_texts_are_those_of_a_copy_for_every_beam(kind, how, changes, padded):
    model = sharp(kind, **changes)
    batch = batch_of(model, 3)
    if not padded:
        batch["source_mask"] = torch.ones_like(batch["source_mask"])
    ours = model.write(model.encode(batch["source"], batch["source_mask"]), **how)
    theirs = of_transformers(model, batch, **how)
    assert ours.tolist() == theirs.tolist()
    assert len({tuple(row) for row in ours.tolist()}) > 1, "texts that depend on their source"


@pytest.mark.parametrize("name", ["shared_bias", "shared_source"])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("length", [1, 3])
def test_attention_to_one_copy_is_that_to_many(name, masked, length):
    model = small("bart" if name == "shared_source" else "t5").double().eval()
    layers = model.network.get_decoder()
    module = layers.layers[0].encoder_attn if name == "shared_source" else layers.block[0].layer[1].EncDecAttention
    attend = {"shared_bias": shared_bias.attend, "shared_source": shared_source.attend}[name]
    torch.manual_seed(0)
    query = torch.randn(3 * BEAMS, 2, length, 8, dtype=torch.float64)
    key, value = torch.randn(2, 3, 2, 5, 8, dtype=torch.float64)
    mask = (torch.arange(5) < torch.tensor([5, 2, 1])[:, None])[:, None, None].repeat_interleave(BEAMS, 0)
    mask = mask.expand(-1, -1, length, -1) if masked else None
    options = {"scaling": 0.3, "position_bias": torch.zeros(1, 2, length, 5, dtype=torch.float64)}
    options = options if name == "shared_bias" else {"scaling": 0.3}
    found, _ = attend(module, query, key, value, mask, **options)
    copies = key.repeat_interleave(BEAMS, 0), value.repeat_interleave(BEAMS, 0)
    wanted, _ = attend(module, query, *copies, mask, **options)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert found.shape == (3 * BEAMS, length, 2, 8)


@pytest.mark.parametrize("kind", list(KINDS))
def test_one_copy_is_held_and_never_moved(kind, monkeypatch):
    held = []

    def spied(network, states):
        cache = shared_source.read_source(network, states)
        held.append((cache, [layer.keys.data_ptr() for layer in cache.cross_attention_cache.layers]))
        return cache

    monkeypatch.setattr("rtx_lab.models.pretrained.read_source", spied)
    model = sharp(kind)
    batch = batch_of(model)
    model.write(model.encode(batch["source"], batch["source_mask"]), **HOW)
    ((cache, places),) = held
    assert len(places) == model.arguments["n_decoder_layers"]
    assert [layer.keys.data_ptr() for layer in cache.cross_attention_cache.layers] == places
    assert {len(layer.keys) for layer in cache.cross_attention_cache.layers} == {len(batch["source"])}
    assert {len(layer.keys) for layer in cache.self_attention_cache.layers} == {BEAMS * len(batch["source"])}
