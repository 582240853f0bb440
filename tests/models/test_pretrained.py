"""T5, mT5 and BART behind our interface: they are transformers' own, with padding, LoRA and new tokens or without."""

import pytest
import torch
from small_seq2seq import KINDS, LORA, batch_of, gradients, logits_of, loss_of, small

from rtx_lab.core import checkpoint
from rtx_lab.core.errors import UsageError
from rtx_lab.models.adapters import AdaptedLinear
from rtx_lab.models.pretrained import DEFAULT_TARGETS

ALL = list(KINDS)
TARGETS = {
    "t5": {"q", "k", "v", "o", "wi", "wo"},
    "t5_gated": {"q", "k", "v", "o", "wi_0", "wi_1", "wo"},
    "mt5": {"q", "k", "v", "o", "wi_0", "wi_1", "wo"},
    "bart": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
}


def own_logits(model, batch):
    """What transformers computes, with its own masks."""
    return model.network(
        input_ids=batch["source"],
        attention_mask=batch["source_mask"].long(),
        decoder_input_ids=batch["decoder_input"],
        use_cache=False,
    ).logits


@pytest.mark.parametrize("kind", ALL)
def test_loss_and_gradients_are_those_of_transformers(kind):
    model = small(kind)
    batch = batch_of(model)
    ours = loss_of(model, batch)
    ours.backward()
    mine = gradients(model)
    theirs = (
        model.network(
            input_ids=batch["source"],
            attention_mask=batch["source_mask"].long(),
            decoder_input_ids=batch["decoder_input"],
            labels=batch["labels"],
        ).loss
        * (batch["labels"] != -100).sum()
    )
    theirs.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    assert (mine - gradients(model)).norm() <= 1e-5 * mine.norm()


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("changes", [{}, LORA, LORA | {"lora_targets": ["lm_head", "embed_tokens"]}])
def test_the_head_says_what_the_logits_of_transformers_are(kind, changes):
    model = small(kind, **changes).double().eval()
    if kind == "bart":
        torch.nn.init.normal_(model.network.final_logits_bias)
    batch = batch_of(model)
    torch.testing.assert_close(logits_of(model, batch), own_logits(model, batch), rtol=0, atol=1e-10)


def test_a_tied_t5_scales_what_its_head_reads():
    tied, own = small("t5", d_model=64, tied_head=True), small("t5", d_model=64, tied_head=False)
    assert tied._hidden_scale == 1 / 8
    assert own._hidden_scale == 1.0


@pytest.mark.parametrize("kind", ALL)
def test_padding_changes_nothing(kind):
    model = small(kind, **LORA).double().eval()
    batch = batch_of(model)
    logits = logits_of(model, batch)
    for b in range(len(logits)):
        length, target = batch["source_mask"][b].sum(), (batch["labels"][b] != -100).sum()
        one = {key: value[b : b + 1, : target if key in ("labels", "decoder_input") else length]
               for key, value in batch.items()}  # fmt: skip
        torch.testing.assert_close(logits_of(model, one)[0], logits[b, :target], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ALL)
def test_lora_adapts_exactly_the_layers_of_its_architecture(kind):
    model = small(kind, **LORA)
    adapted = [name for name, layer in model.named_modules() if isinstance(layer, AdaptedLinear)]
    plain = [name for name, layer in small(kind).named_modules() if type(layer) is torch.nn.Linear]
    assert {name.rpartition(".")[2] for name in adapted} == TARGETS[kind]
    assert {name.rpartition(".")[2] for name in plain} == TARGETS[kind] | {"lm_head"}
    assert len(adapted) == len(plain) - 1, "every linear layer of the blocks, in every block"
    assert set(DEFAULT_TARGETS[KINDS[kind]["architecture"], KINDS[kind].get("gated", False)]) == TARGETS[kind]


@pytest.mark.parametrize(("kind", "wrong"), [("t5_gated", "wi"), ("mt5", "wi"), ("bart", "o"), ("t5", "q_proj")])
def test_a_target_that_no_layer_has_is_refused(kind, wrong):
    for place in (torch.device("cpu"), torch.device("meta")):
        with place, pytest.raises(UsageError, match=f"lora_targets: {wrong} names no layer of this model; there are"):
            small(kind, lora_rank=2, lora_targets=["lm_head", wrong])


@pytest.mark.parametrize("kind", ALL)
def test_new_rows_learn_and_all_others_stay_bit_identical(kind):
    model = small(kind, **LORA)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        loss_of(model, batch_of(model)).backward()
        optimizer.step()
    after = dict(model.named_parameters())
    for name, value in after.items():
        assert torch.equal(value, before[name]) == (not value.requires_grad), name
    rows = [name for name, value in after.items() if name.endswith("rows")]
    assert len(rows) == (2 if KINDS[kind].get("tied_head") is False else 1)
    assert model.network.lm_head.rows[-1].ne(before[rows[-1]][-1]).all()


@pytest.mark.parametrize("kind", ["t5", "bart"])
@pytest.mark.parametrize("changes", [{}, LORA | {"lora_targets": ["lm_head"]}])
def test_tied_stays_tied(kind, changes):
    model = small(kind, **changes)
    loss_of(model, batch_of(model)).backward()
    inputs, head = model.network.get_input_embeddings(), model.network.lm_head
    assert inputs.weight is head.weight
    assert model.network.get_encoder().embed_tokens.weight is head.weight
    if changes:
        assert inputs.lora_A is head.lora_A
        assert inputs.lora_B is head.lora_B
        assert inputs.rows is head.rows


@pytest.mark.parametrize("kind", ALL)
def test_checkpointing_changes_no_gradient(kind):
    model = small(kind, **LORA, lora_dropout=0.1)
    found = []
    for value in (False, True):
        model.gradient_checkpointing = value
        assert model.gradient_checkpointing is value
        torch.manual_seed(1)
        loss_of(model, batch_of(model)).backward()
        found.append(gradients(model))
    assert found[0].norm() > 0
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["t5", "mt5", "bart"])
@pytest.mark.parametrize("changes", [{}, LORA])
def test_any_cut_of_a_step_gives_the_same_gradient(kind, changes):
    model = small(kind, **changes)
    batch = batch_of(model, size=64)
    found = {}
    for size in (64, 16, 8):
        for start in range(0, 64, size):
            loss_of(model, {key: value[start : start + size] for key, value in batch.items()}).backward()
        found[size] = gradients(model)
    for size in (16, 8):
        assert (found[size] - found[64]).norm() <= 1e-6 * found[64].norm()


@pytest.mark.parametrize("kind", ["mt5", "bart"])
def test_a_checkpoint_of_an_adapted_model_holds_what_was_trained(kind, tmp_path):
    model = small(kind, **LORA)
    store = checkpoint.Store(folder=tmp_path / "checkpoints")
    place = checkpoint.save(store, {"step": 1, "best": None}, model)
    names = set(checkpoint.read_weights(place))
    assert names == {name for name, value in model.named_parameters() if value.requires_grad}
    assert all(name.endswith(("lora_A", "lora_B", "rows")) for name in names)
    other = small(kind, seed=5, **LORA)
    batch = batch_of(model)
    assert not torch.equal(logits_of(other, batch), logits_of(model, batch))
    checkpoint.load_weights(other, place)
    assert torch.equal(logits_of(other, batch), logits_of(model, batch)), "the base is the same for every seed"
    with pytest.raises(UsageError, match="belongs to another model"):
        checkpoint.load_weights(small(kind, **LORA | {"lora_rank": 3}), place)


def test_a_whole_model_is_saved_whole(tmp_path):
    model = small("t5")
    store = checkpoint.Store(folder=tmp_path / "checkpoints")
    place = checkpoint.save(store, {"step": 1, "best": None}, model)
    other = small("t5", seed=3)
    checkpoint.load_weights(other, place)
    assert torch.equal(logits_of(other, batch_of(model)), logits_of(model, batch_of(model)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "t6"}, "model.architecture must be one of t5, mt5, bart"),
        ({"quantize": "nf5"}, "model.quantize must be one of none, bf16, int8, nf4"),
        ({"quantize": "nf4"}, "model.quantize=nf4 freezes the weights: set model.lora_rank"),
        ({"lora_targets": ["q"]}, "model.lora_targets says what LoRA adapts: set model.lora_rank"),
        ({"lora_rank": 0}, "model.lora_rank must be a positive integer"),
        ({"lora_rank": 2, "lora_alpha": -1}, "model.lora_alpha must be a positive"),
        ({"lora_dropout": 1.0}, "model.lora_dropout must be"),
        ({"vocab_size": 50}, "model.tokenizer_size must be at most model.vocab_size = 50"),
        ({"n_encoder_layers": 0}, "model.n_encoder_layers must be"),
        ({"eos_id": 99}, "model.eos_id must be"),
    ],
)
def test_bad_parameters_are_refused_by_name(changes, message):
    with torch.device("meta"), pytest.raises(UsageError, match=message):
        small("t5", **changes)


def test_t5_alone_refuses_fp16():
    assert [small(kind).refuses_fp16 for kind in ("t5", "mt5", "bart")] == [True, True, False]
