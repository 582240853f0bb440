"""Invariants of the Connection Transformer: padding, batching, halting, gradients, tracing, saving."""

import halting_one_by_one as slow
import pytest
import torch
from torch._subclasses import FakeTensorMode

from rtx_lab.core.errors import UsageError
from rtx_lab.models.connection_transformer import ConnectionTransformer
from rtx_lab.nn.connections import CONNECTIONS
from rtx_lab.nn.cross_entropy import linear_cross_entropy

SIZES = {"vocab_size": 31, "max_seq_len": 40, "d_model": 16, "num_slots": 6, "bilinear_rank": 4}
SIZES |= {"max_reasoning_steps": 5, "num_encoder_layers": 1, "num_heads": 2}
B, S, T = 12, 14, 5


def _model(**changes):
    torch.manual_seed(1)
    return ConnectionTransformer(**SIZES | changes)


def _batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(1, 31, (B, S), generator=generator)
    length = torch.randint(2, S + 1, (B,), generator=generator)
    mask = torch.arange(S)[None] < length[:, None]
    labels = torch.randint(1, 31, (B, T), generator=generator)
    labels[::3, 3:] = -100
    tokens = torch.cat([torch.zeros(B, 1, dtype=torch.int64), labels[:, :-1].clamp_min(0)], dim=1)
    return source * mask, mask, tokens, labels


def _loss(model, source, mask, tokens, labels):
    memory = model.encode(source, mask)
    hidden = model.decode(memory, tokens)
    weight = (labels != -100).sum(1)
    nll = linear_cross_entropy(hidden, model.output_weight, labels)
    return nll + (model.auxiliary(memory, labels) * weight).sum() + model.penalty() * weight.sum()


def _median_threshold(model, source, mask):
    """A threshold between two scores that half of all scores pass, so that samples halt at many depths."""
    scores = model.eval().encode(source, mask).scores.detach().flatten().sort().values
    return scores[len(scores) // 2 - 1 :][:2].mean().item()


@pytest.mark.parametrize("num_encoder_layers", [0, 1])
def test_padding_changes_nothing(num_encoder_layers):
    model = _model(num_encoder_layers=num_encoder_layers).double().eval()
    source, mask, tokens, _ = _batch()
    memory = model.encode(source, mask)
    longer = torch.cat([torch.where(mask, source, 7), torch.full((B, 9), 3)], dim=1)
    padded = model.encode(longer, torch.cat([mask, torch.zeros(B, 9, dtype=torch.bool)], dim=1))
    torch.testing.assert_close(padded.states, memory.states, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.decode(padded, tokens), model.decode(memory, tokens), rtol=0, atol=1e-12)
    assert torch.equal(padded.steps, memory.steps)


def test_an_empty_source_stays_finite():
    model = _model()
    source, mask, tokens, labels = _batch()
    mask[0] = False
    _loss(model, source, mask, tokens, labels).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_batched_halting_equals_solo_halting(connection):
    model = _model(connection=connection).double()
    source, mask, _, _ = _batch()
    model.halting.threshold = _median_threshold(model, source, mask)
    memory = model.encode(source, mask)
    assert len(memory.steps.unique()) >= 3
    for sample in range(B):
        one = slice(sample, sample + 1)
        steps, state = slow.reason_alone(model, source[one], mask[one])
        assert memory.steps[sample] == steps
        torch.testing.assert_close(memory.states[sample], state, rtol=0, atol=1e-12)


def test_larger_thresholds_take_fewer_steps():
    model = _model()
    source, mask, _, _ = _batch()
    scores = model.eval().encode(source, mask).scores
    means = []
    for threshold in (0.99 * scores.flatten().quantile(torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0]))).tolist():
        model.halting.threshold = threshold
        means.append(model.encode(source, mask).steps.double().mean().item())
    assert means == sorted(means, reverse=True)
    assert means[0] == 5
    assert means[-1] < 2
    assert len(set(means)) == 5


def test_criteria_measure_what_they_say():
    source, mask, _, _ = _batch()
    sizes, changes = (
        _model(halting_criterion=name).eval().encode(source, mask) for name in ("absolute", "state_change")
    )
    # The update of a normalised state never comes near the thresholds of the original sweep.
    assert sizes.scores.min() > 0.5
    assert (sizes.steps == 5).all()
    assert changes.scores.max() < sizes.scores.max()
    # A state that has become a fixed point has no readout change.
    still = _model()
    still.connection = type(still.connection)(6, 16, 4)
    still.connection.scale = 0.0
    quiet = still.eval().encode(source, mask)
    assert (quiet.scores[:, 1:] < 1e-5).all()


def test_expected_steps_have_a_gradient():
    for halting in ("threshold", "ponder"):
        model = _model(halting=halting, readout_weight=0, ponder_weight=0, reasoning_cost_weight=1.0)
        source, mask, _, labels = _batch()
        memory = model.encode(source, mask)
        assert ((memory.expected_steps > 1) & (memory.expected_steps < 5)).all()
        expected = (memory.expected_steps - 4).square()
        torch.testing.assert_close(model.auxiliary(memory, labels), expected)
        expected.sum().backward()
        assert model.connection.pair.grad.norm() > 1e-6
        assert model.readout.summary.weight.grad.norm() > 1e-6


def test_training_visits_every_depth_and_every_cut_is_the_same():
    model = _model()
    batches = [_batch(seed)[:2] for seed in range(6)]
    torch.manual_seed(5)
    whole = [model.encode(*batch).steps for batch in batches]
    assert set(torch.cat(whole).tolist()) == {1, 2, 3, 4, 5}
    source, mask = batches[0]
    pieces = [model.encode(source[i : i + 1], mask[i : i + 1]).steps for i in range(B)]
    assert torch.equal(torch.cat(pieces), whole[0])


def test_gradient_does_not_depend_on_the_cut():
    source, mask, tokens, labels = _batch()
    gradients = []
    for size in (12, 4, 1):
        model = _model().double()
        torch.manual_seed(5)
        for start in range(0, B, size):
            cut = slice(start, start + size)
            _loss(model, source[cut], mask[cut], tokens[cut], labels[cut]).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    for gradient in gradients[1:]:
        assert (gradient - gradients[0]).norm() <= 1e-10 * gradients[0].norm()


def test_fixed_steps_and_none():
    source, mask, _, _ = _batch()
    assert (_model(fixed_steps=3).encode(source, mask).steps == 3).all()
    assert (_model(fixed_steps=3).eval().encode(source, mask).steps == 3).all()
    assert (_model(halting="none").encode(source, mask).steps == 5).all()
    assert _model(fixed_steps=3).max_steps == 3


def test_ponder_is_a_distribution_that_decides():
    model = _model(halting="ponder", target_steps=3)
    source, mask, _, _ = _batch()
    torch.testing.assert_close(model.halting.prior.sum(), torch.tensor(1.0))
    mean = (model.halting.prior * torch.arange(1, 6)).sum()
    torch.testing.assert_close(mean, torch.tensor(3.0), atol=1e-4, rtol=0)
    memory = model.encode(source, mask)
    torch.testing.assert_close(memory.halting.sum(1), torch.ones(B))
    expected = (memory.halting * torch.arange(1, 6)).sum(1)
    torch.testing.assert_close(memory.expected_steps, expected)
    evaluated = model.eval().encode(source, mask)
    halted = evaluated.halting.cumsum(1).gather(1, evaluated.steps[:, None] - 1)
    assert ((halted > 0.5) | (evaluated.steps[:, None] == 5)).all()


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
    model = _model(**changes)
    _loss(model, *_batch()).backward()
    # Pair vectors start orthonormal, and only later steps see the norms of earlier ones; all must be reached.
    still = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert still == []


def test_auxiliary_supervises_only_real_samples_and_only_training():
    model = _model(reasoning_cost_weight=0)
    source, mask, _, labels = _batch()
    labels[2] = -100
    extra = model.auxiliary(model.encode(source, mask), labels)
    assert extra.shape == (B,)
    assert extra[2] == 0
    assert (extra[3:] > 0).all()
    assert (model.eval().auxiliary(model.encode(source, mask), labels) == 0).all()


def test_input_and_slots_start_at_comparable_size():
    model = _model(d_model=64, num_slots=32, num_encoder_layers=0, num_heads=4).eval()
    source, mask, _, _ = _batch()
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
    slots = _model(num_slots=20).compression.slots
    assert slots.shape == (20, 16)
    torch.testing.assert_close(slots[:16] @ slots[:16].T, 16 * torch.eye(16), atol=1e-4, rtol=0)


def test_fixed_slots_are_saved_but_not_trained():
    assert "compression.slots" in _model().state_dict()
    assert "compression.slots" not in dict(_model().named_parameters())
    assert "compression.slots" in dict(_model(slots="learned").named_parameters())


@pytest.mark.parametrize("changes", [{}, {"connection": "dense", "step_norm": "per_step"}, {"connection": "core"}])
def test_gradient_checkpointing_changes_no_gradient(changes):
    gradients = []
    for checkpointing in (False, True):
        model = _model(**changes, dropout=0.1).double()
        model.gradient_checkpointing = checkpointing
        torch.manual_seed(2)
        _loss(model, *_batch()).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("halting", ["threshold", "ponder", "none"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_compiles_without_a_graph_break(halting, mode):
    torch.compiler.reset()
    model = _model(halting=halting)
    model.train(mode == "train")
    source, mask, _, _ = _batch()
    torch.manual_seed(3)
    expected = model.encode(source, mask)
    torch.manual_seed(3)
    compiled = torch.compile(model.encode, backend="eager", fullgraph=True)(source, mask)
    assert torch.equal(compiled.steps, expected.steps)
    torch.testing.assert_close(compiled.states, expected.states)


def test_a_whole_loss_compiles_without_a_graph_break():
    torch.compiler.reset()
    model, batch = _model(), _batch()
    compiled = torch.compile(_loss, backend="eager", fullgraph=True)
    for seed in (3, 4):
        losses = []
        for loss in (_loss, compiled):
            torch.manual_seed(seed)
            losses.append(loss(model, *batch))
        torch.testing.assert_close(*losses)


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_traces_on_fake_tensors(connection):
    with FakeTensorMode(allow_non_fake_inputs=False):
        model = _model(connection=connection)
        source, labels = torch.empty(B, S, dtype=torch.int64), torch.empty(B, T, dtype=torch.int64)
        loss = _loss(model, source, torch.empty(B, S, dtype=torch.bool), labels, labels)
        loss.backward()
        assert loss.shape == ()
        assert model.output_weight.grad.shape == (31, 16)


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_bfloat16_autocast_is_finite_and_close(connection):
    model = _model(connection=connection)
    torch.manual_seed(3)
    exact = _loss(model, *_batch())
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = _loss(model, *_batch())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.05, atol=0)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_decoder_is_causal():
    model = _model().eval()
    source, mask, tokens, _ = _batch()
    memory = model.encode(source, mask)
    changed = tokens.clone()
    changed[:, 3:] = 1 + changed[:, 3:] % 30
    before, after = model.decode(memory, tokens), model.decode(memory, changed)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3:], after[:, 3:])


def test_initial_loss_is_near_uniform():
    model = _model(vocab_size=1000, d_model=64, num_heads=4)
    source, mask, tokens, labels = _batch()
    hidden = model.decode(model.encode(source, mask), tokens)
    mean = linear_cross_entropy(hidden, model.output_weight, labels) / (labels != -100).sum()
    assert abs(mean - torch.tensor(1000.0).log()) < 1.5


def test_saved_model_is_bit_equal(tmp_path):
    model = _model(halting="ponder", num_slots=20).eval()
    model.save_pretrained(tmp_path)
    loaded = ConnectionTransformer.from_pretrained(tmp_path).eval()
    assert loaded.max_steps == 5
    for (name, value), (other, copy) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(value, copy)
    source, mask, tokens, _ = _batch()
    assert torch.equal(
        model.decode(model.encode(source, mask), tokens), loaded.decode(loaded.encode(source, mask), tokens)
    )


def test_every_bad_parameter_is_named_at_once():
    changes = {"num_slots": -4, "convergence_threshold": float("inf"), "halting": "never", "fixed_steps": 9}
    with pytest.raises(UsageError) as caught:
        _model(**changes, dropout=float("nan"), num_heads=3)
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
        _model(**{key: value})


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_connection_strength_is_a_constant_matrix(connection):
    strength = _model(connection=connection).connection_strength()
    assert strength.shape == (6, 6)
    assert not strength.requires_grad
