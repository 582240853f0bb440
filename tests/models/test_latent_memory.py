"""One network in several parts: the reader is the base, a stage trains its part alone, a saved model is the same."""

import pytest
import torch
import transformers
from memory_by_reencoding import read as read_again
from memory_by_reencoding import weave as woven_again
from small_latent_memory import SIZES, VOCAB, in_double, limits_of, prompts, small, written
from torch._subclasses.fake_tensor import FakeTensorMode

from rtx_lab.core import checkpoint
from rtx_lab.core.errors import UsageError
from rtx_lab.inference import choices
from rtx_lab.models import latent_stream
from rtx_lab.models.latent_memory import CONTEXTS, PARTS, TRIGGERS, LatentMemory

LENGTHS = (9, 4, 12)


def plain_twin(model):
    """transformers' own model with the same base weights, without anything of ours."""
    twin = transformers.AutoModelForCausalLM.from_config(model.network.config, attn_implementation="sdpa")
    own = model.network.state_dict()
    twin.load_state_dict({name.replace(".base.", "."): value for name, value in own.items() if "adapters" not in name})
    return twin.eval()


def reading_of(model, ids_BS, mask_BS, decides=False):
    reading = model.begin(len(ids_BS), weaves=True, decides=decides)
    return reading, model.read(reading, model.embed(ids_BS), mask_BS)


@pytest.mark.parametrize("before", ["weaver", "trigger", "tuned", None])
@pytest.mark.parametrize("architecture", ["qwen2", "llama", "qwen3"])
def test_the_reader_is_the_base_bit_for_bit(architecture, before):
    model = small(architecture=architecture, trigger="lora")
    ids_BS = torch.randint(VOCAB, (2, 11), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = plain_twin(model)(ids_BS).logits
        if before is not None:
            with model.role.play(before):
                assert (model.network(ids_BS).logits - wanted).abs().max() > 0.1
        assert torch.equal(model.network(ids_BS).logits, wanted)
        _, hidden = reading_of(model, ids_BS, torch.ones_like(ids_BS, dtype=torch.bool))
        torch.testing.assert_close(model.logits(hidden), wanted[..., :VOCAB], rtol=0, atol=1e-5)


@pytest.mark.parametrize("trigger", TRIGGERS)
@pytest.mark.parametrize("part", [*PARTS, None])
def test_a_stage_trains_its_part_alone_whatever_is_played(part, trigger):
    model = small(trigger=trigger, weaver_context="hidden")
    model.train_only(part)
    declared = {id(param) for param in model.parts()[part]} if part else set()

    def learning():
        return {id(param) for param in model.parameters() if param.requires_grad}

    assert learning() == declared
    assert sum(len(params) for params in model.parts().values()) == len([*model.parameters()])
    for role in ("weaver", "trigger", "tuned", "reader"):
        with model.role.play(role):
            assert learning() == declared
    _, ids_BS, mask_BS = prompts(LENGTHS)
    written(model, ids_BS, mask_BS, torch.arange(3), limits_of(max_new_tokens=4), choices.always)
    assert learning() == declared
    model.train()
    model.eval()
    assert learning() == declared


@pytest.mark.parametrize("kind", ["prompt", "inference"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_woven_latents_are_those_of_the_whole_prefix(context, kind):
    """Piece by piece, in a padded batch, with latents in between: as one pass over one text."""
    model = in_double(small(weaver_context=context))
    texts, ids_BS, mask_BS = prompts(LENGTHS)
    with torch.no_grad():
        reading, _ = reading_of(model, ids_BS, mask_BS)
        first_BKD = model.weave(reading, "prompt")
        model.read(reading, first_BKD, torch.ones(first_BKD.shape[:2], dtype=torch.bool))
        found = model.weave(reading, kind)
        assert torch.equal(model.weave(reading, kind), found)  # a look ahead leaves nothing behind
        for row, text in enumerate(texts):
            x = [*model.embed(text)]
            first = woven_again(model, x, "prompt")
            torch.testing.assert_close(first_BKD[row], first, rtol=0, atol=1e-9)
            torch.testing.assert_close(found[row], woven_again(model, [*x, *first], kind), rtol=0, atol=1e-9)
    assert (found[0] - found[1]).abs().max() > 1e-2  # they depend on what was read


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_the_trigger_judges_text_and_never_latents(trigger):
    model = in_double(small(trigger=trigger))
    texts, ids_BS, mask_BS = prompts(LENGTHS)
    with torch.no_grad():
        reading, _ = reading_of(model, ids_BS, mask_BS, decides=True)
        before = reading.state_BD.clone()
        role = "trigger" if trigger == "lora" else "reader"
        for row, text in enumerate(texts):
            wanted = read_again(model, model.embed(text), role)[-1]
            torch.testing.assert_close(before[row], wanted, rtol=0, atol=1e-9)
        x_BKD = model.weave(reading, "prompt")
        real_BK = torch.ones(x_BKD.shape[:2], dtype=torch.bool)
        model.read(reading, x_BKD, real_BK, ~real_BK)
        assert torch.equal(reading.state_BD, before)
        assert torch.equal(
            model.insertion_logit(before), before @ model.trigger_head.weight[0] + model.trigger_head.bias
        )


def test_a_new_model_starts_at_even_odds_and_at_the_size_of_tokens():
    torch.manual_seed(0)
    model = LatentMemory(**SIZES).eval()
    _, ids_BS, mask_BS = prompts(LENGTHS)
    with torch.no_grad():
        reading, _ = reading_of(model, ids_BS, mask_BS, decides=True)
        assert model.insertion_logit(reading.state_BD).tolist() == [0.0] * 3
        size = model.weave(reading, "prompt").pow(2).mean(-1).sqrt()
        table = model.network.get_input_embeddings().weight
        torch.testing.assert_close(size, table.pow(2).mean().sqrt().expand_as(size), rtol=1e-2, atol=0)
        table.mul_(7)
        model.load_state_dict(model.state_dict())
        torch.testing.assert_close(7 * size, model.weave(reading, "prompt").pow(2).mean(-1).sqrt(), rtol=1e-2, atol=0)


def values_of(model):
    """What every part computes."""
    _, ids_BS, mask_BS = prompts(LENGTHS)
    with torch.no_grad():
        reading, hidden = reading_of(model, ids_BS, mask_BS, decides=True)
        made = [model.logits(hidden), *(model.weave(reading, kind) for kind in model.queries)]
        with model.role.play("tuned"):
            tuned = model.network.model(ids_BS).last_hidden_state
        return [*made, model.insertion_logit(reading.state_BD), tuned, model.learnt]


@pytest.mark.parametrize("changes", [{}, {"tied_head": False}, {"weaver_context": "embeds", "trigger": "lora"}])
def test_a_saved_model_computes_the_same(changes, tmp_path):
    model, other = small(**changes), small(seed=8, **changes)
    assert not torch.equal(values_of(other)[0], values_of(model)[0])
    place = checkpoint.save(checkpoint.Store(folder=tmp_path / "c"), {"step": 1, "best": None}, model)
    checkpoint.load_weights(other, place)
    for found, wanted in zip(values_of(other), values_of(model), strict=True):
        assert torch.equal(found, wanted)
    assert any(name.startswith("network.model.embed_tokens") for name in model.state_dict())


@pytest.mark.parametrize("quantize", ["none", "bf16"])
def test_missing_and_unexpected_tensors_raise(quantize):
    model = small(quantize=quantize)
    good = model.state_dict()
    for name in ("gain", "queries.prompt", "network.model.layers.0.self_attn.q_proj.adapters.weaver.lora_A"):
        with pytest.raises(RuntimeError, match=name.replace(".", r"\.")):
            model.load_state_dict({key: value for key, value in good.items() if key != name})
    with pytest.raises(RuntimeError, match="to_weaver"):
        model.load_state_dict(good | {"to_weaver.weight": torch.zeros(2, 2)})
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_state_dict(good | {"gain": torch.zeros(3)})
    model.load_state_dict(good)


@pytest.mark.parametrize("quantize", ["bf16", "int8", "nf4"])
def test_a_packed_base_lets_the_weaver_learn_and_stays_as_it_is(quantize, tmp_path):
    changes = {"quantize": quantize, "d_model": 64, "d_ff": 128, "weaver_context": "embeds"}
    model = small(**changes)
    model.train_only("weaver")
    base = {name: value.clone() for name, value in model.network.named_buffers()}
    _, ids_BS, mask_BS = prompts(LENGTHS)
    wanted = torch.randn(3, 3, 64)
    optimizer = torch.optim.AdamW([param for param in model.parameters() if param.requires_grad], lr=0.01)

    def loss():
        reading, _ = reading_of(model, ids_BS, mask_BS)
        return (model.weave(reading, "prompt") / model.size - wanted).pow(2).mean()

    losses = []
    for _ in range(8):
        losses.append(loss())
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(value, base[name]) for name, value in model.network.named_buffers())
    assert not any(name.startswith("network.model.embed_tokens") for name in model.state_dict())
    other = small(**changes)
    checkpoint.load_weights(other, checkpoint.save(checkpoint.Store(folder=tmp_path), {"step": 1}, model))
    for found, value in zip(values_of(other), values_of(model), strict=True):
        assert torch.equal(found, value)
    with pytest.raises(UsageError, match=r"the base cannot be trained as model.quantize"):
        model.train_only("base")


@pytest.mark.parametrize("quantize", ["none", "int8", "nf4"])
def test_a_trace_has_the_shapes_and_bytes_of_the_real_model(quantize):
    real = small(quantize=quantize, weaver_context="hidden", trigger="lora")
    with FakeTensorMode():
        traced = LatentMemory(**real.arguments)
    for own, other in (
        (real.named_parameters(), traced.named_parameters()),
        (real.named_buffers(), traced.named_buffers()),
    ):
        assert {n: (v.shape, v.dtype) for n, v in own} == {n: (v.shape, v.dtype) for n, v in other}


def test_adapters_of_the_reader_are_as_many_as_the_weavers_numbers():
    for changes in ({"d_model": 64, "d_ff": 96}, {"weaver_context": "embeds"}):
        model = small(**changes)
        count = {part: sum(param.numel() for param in params) for part, params in model.parts().items()}
        unit = count["tuned"] / model.parts()["tuned"][0].shape[0]
        assert abs(count["tuned"] - count["weaver"]) <= unit / 2


def test_everything_out_of_range_is_told_at_once():
    with pytest.raises(UsageError) as caught:
        small(weaver_context="all", trigger="mlp", lora_rank=0, prompt_latents_len=-1, lora_dropout=1.0)
    for name in ("weaver_context", "trigger", "lora_rank", "prompt_latents_len", "lora_dropout"):
        assert name in str(caught.value)


@pytest.mark.parametrize("context", CONTEXTS)
def test_under_autocast_keys_are_kept_as_attention_reads_them(monkeypatch, context):
    """Bit for bit what transformers' own cache gives, which keeps float32 keys that attention rounds in every step."""
    model, seen = small(weaver_context=context), []
    _, ids_BS, mask_BS = prompts(LENGTHS)
    for cache in (latent_stream._cache_class(), transformers.DynamicCache):
        monkeypatch.setattr(latent_stream, "_cache_class", lambda cache=cache: cache)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            reading, hidden = reading_of(model, ids_BS, mask_BS)
            latents = model.weave(reading, "prompt")
            more = model.read(reading, latents, torch.ones_like(latents[..., 0], dtype=torch.bool))
        seen.append((reading.reader.cache.layers[0].keys.dtype, hidden, latents, more))
    assert [kind for kind, *_ in seen] == [torch.bfloat16, torch.float32]
    assert all(torch.equal(*pair) for pair in zip(seen[0][1:], seen[1][1:], strict=True))
