"""Invariants of the Connection Transformer: padding, scale, causality, saving, bad parameters."""

import pytest
import torch
from small_connection_transformer import B, batch_of, loss_of, model_of

from rtx_lab.core.errors import UsageError
from rtx_lab.models.connection_transformer import ConnectionTransformer
from rtx_lab.nn.connections import CONNECTIONS
from rtx_lab.nn.cross_entropy import linear_cross_entropy


@pytest.mark.parametrize("num_encoder_layers", [0, 1])
def test_padding_changes_nothing(num_encoder_layers):
    model = model_of(num_encoder_layers=num_encoder_layers).double().eval()
    source, mask, tokens, _ = batch_of()
    memory = model.encode(source, mask)
    longer = torch.cat([torch.where(mask, source, 7), torch.full((B, 9), 3)], dim=1)
    padded = model.encode(longer, torch.cat([mask, torch.zeros(B, 9, dtype=torch.bool)], dim=1))
    torch.testing.assert_close(padded.states, memory.states, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.decode(padded, tokens), model.decode(memory, tokens), rtol=0, atol=1e-12)
    assert torch.equal(padded.steps, memory.steps)


def test_an_empty_source_stays_finite():
    model = model_of()
    source, mask, tokens, labels = batch_of()
    mask[0] = False
    loss_of(model, source, mask, tokens, labels).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"halting": "ponder"},
        {"halting": "none"},
        {"slots": "learned"},
        {"step_norm": "per_step"},
        {"connection": "dense"},
        {"connection": "core"},
        {"connection": "scalar"},
        {"connection": "linear"},
        {"halting_criterion": "state_change"},
        {"num_slots": 20},
    ],
)
def test_every_parameter_learns(changes):
    model = model_of(**changes)
    loss_of(model, *batch_of()).backward()
    # Pair vectors start orthonormal, and only later steps see the norms of earlier ones; all must be reached.
    still = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert still == []


def test_input_and_slots_start_at_comparable_size():
    model = model_of(d_model=64, num_slots=32, num_encoder_layers=0, num_heads=4).eval()
    source, mask, _, _ = batch_of()
    x = model.embedding.source(source)
    assert 0.8 < x.std() < 1.2
    slots, attention = model.compression(x, mask)
    content = slots - model.compression.slots
    assert 0.5 < content.norm(dim=-1).mean() / model.compression.slots.norm(dim=-1).mean() < 2
    logits = attention.clamp_min(1e-30).log()
    assert 0.6 < (logits - logits.mean(-1, keepdim=True)).std() < 1.5
    gram = model.compression.slots @ model.compression.slots.T
    torch.testing.assert_close(gram, 64 * torch.eye(32), atol=1e-3, rtol=0)


def test_more_slots_than_dimensions_stack_orthonormal_blocks():
    slots = model_of(num_slots=20).compression.slots
    assert slots.shape == (20, 16)
    torch.testing.assert_close(slots[:16] @ slots[:16].T, 16 * torch.eye(16), atol=1e-4, rtol=0)


def test_fixed_slots_are_saved_but_not_trained():
    assert "compression.slots" in model_of().state_dict()
    assert "compression.slots" not in dict(model_of().named_parameters())
    assert "compression.slots" in dict(model_of(slots="learned").named_parameters())


def test_decoder_is_causal():
    model = model_of().eval()
    source, mask, tokens, _ = batch_of()
    memory = model.encode(source, mask)
    changed = tokens.clone()
    changed[:, 3:] = 1 + changed[:, 3:] % 30
    before, after = model.decode(memory, tokens), model.decode(memory, changed)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3:], after[:, 3:])


def test_initial_loss_is_near_uniform():
    model = model_of(vocab_size=1000, d_model=64, num_heads=4)
    source, mask, tokens, labels = batch_of()
    hidden = model.decode(model.encode(source, mask), tokens)
    mean = linear_cross_entropy(hidden, model.output_weight, labels) / (labels != -100).sum()
    assert abs(mean - torch.tensor(1000.0).log()) < 1.5


def test_saved_model_is_bit_equal(tmp_path):
    model = model_of(halting="ponder", num_slots=20).eval()
    model.save_pretrained(tmp_path)
    loaded = ConnectionTransformer.from_pretrained(tmp_path).eval()
    assert loaded.max_steps == 5
    for (name, value), (other, copy) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(value, copy)
    source, mask, tokens, _ = batch_of()
    assert torch.equal(
        model.decode(model.encode(source, mask), tokens), loaded.decode(loaded.encode(source, mask), tokens)
    )


def test_every_bad_parameter_is_named_at_once():
    changes = {"num_slots": -4, "convergence_threshold": float("inf"), "halting": "never", "fixed_steps": 9}
    with pytest.raises(UsageError) as caught:
        model_of(**changes, dropout=float("nan"), num_heads=3)
    assert "model.num_slots must be a positive integer, got -4" in caught.value.problems
    named = [problem.split()[0] for problem in caught.value.problems]
    assert set(named) == {f"model.{key}" for key in (*changes, "dropout", "num_heads")}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vocab_size", None),
        ("vocab_size", 0),
        ("d_model", 2.5),
        ("num_slots", True),
        ("bilinear_rank", 17),
        ("max_reasoning_steps", 0),
        ("convergence_threshold", 0),
        ("convergence_threshold", -0.1),
        ("connection", "full"),
        ("halting_criterion", "kl"),
        ("step_norm", "none"),
        ("slots", "random"),
        ("num_encoder_layers", -1),
        ("dropout", 1.0),
        ("target_steps", 0.5),
        ("reasoning_cost_weight", -1),
        ("orthogonal_weight", float("nan")),
    ],
)
def test_bad_parameters_are_refused_by_name(key, value):
    with pytest.raises(UsageError, match=f"^model.{key} must "):
        model_of(**{key: value})


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_connection_strength_is_a_constant_matrix(connection):
    strength = model_of(connection=connection).connection_strength()
    assert strength.shape == (6, 6)
    assert not strength.requires_grad
