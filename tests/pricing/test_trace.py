"""One step on tensors without memory: what it holds, what it computes, and when it is traced again."""

import pytest

from rtx_lab.pricing import trace as tracing
from rtx_lab.pricing.trace import trace
from rtx_lab.pricing.work import total_flops


def traced(settled, *overrides):
    run = settled(*overrides).run
    return trace(run, run.budget.micro_batch)


@pytest.mark.parametrize(
    ("model", "parameters"),
    [("bilinear_base", 13_640_704), ("linear", 11_084_800), ("transformer_baseline", 13_641_588)],
)
def test_states_follow_from_the_parameters(settled, model, parameters):
    found = traced(settled, f"model={model}", "dataset=strategyqa", "budget.micro_batch=2", "budget.eval_batch=2")
    assert found.parameters == parameters
    assert found.gradients == 4 * parameters
    assert found.optimizer == 8 * parameters
    assert 4 * parameters <= found.weights < 4.1 * parameters  # the fixed slots are a buffer


def test_the_split_adds_up(settled):
    for overrides in ((), ("budget.micro_batch=16",)):
        found = traced(settled, *overrides)
        assert found.training == found.weights + found.gradients + found.optimizer + found.activations
        assert found.peak == max(found.training, found.evaluation)
        assert 0 < found.logits <= found.activations


@pytest.mark.parametrize("connection", ["dense", "diag"])
def test_a_reasoning_step_costs_what_the_formula_says(settled, connection):
    """Spec of the maps: 4 N^2 D r (dense) and 4 N D r + 2 N^2 r (diag) forward, three times that with the backward."""
    n, d, r, v, q, batch = 16, 64, 4, 116, 4, 64
    sizes = (f"model.num_slots={n}", f"model.bilinear_rank={r}", f"model.connection={connection}")
    short, long = (traced(settled, *sizes, f"model.max_reasoning_steps={k}") for k in (2, 3))
    maps = {"dense": 4 * n * n * d * r, "diag": 4 * n * d * r + 2 * n * n * r}[connection]
    readout = 4 * n * d * q + 2 * q * d * d + 2 * d * v
    added = total_flops(long.micro_batch_work) - total_flops(short.micro_batch_work)
    assert added == 3 * batch * (maps + readout)


def test_checkpointing_trades_memory_for_work(settled):
    kept = traced(settled, "model.max_reasoning_steps=8")
    again = traced(settled, "model.max_reasoning_steps=8", "budget.gradient_checkpointing=true")
    assert again.activations < 0.8 * kept.activations
    assert total_flops(again.micro_batch_work) > total_flops(kept.micro_batch_work)


def test_smaller_micro_batches_hold_less_and_compute_the_same(settled):
    whole, cut = traced(settled), traced(settled, "budget.micro_batch=16")
    assert cut.activations < 0.5 * whole.activations
    assert (whole.num_micro_batches, cut.num_micro_batches) == (1, 4)
    penalty_share = 1.02  # the regulariser of the maps is computed once a micro-batch
    assert 1 <= 4 * total_flops(cut.micro_batch_work) / total_flops(whole.micro_batch_work) < penalty_share


def test_equal_shapes_are_traced_once(settled):
    first = traced(settled, "model.num_slots=24")
    count = len(tracing._traces)
    same = ("optim.lr=0.5", "seed=7", "model.convergence_threshold=0.5", "budget.epochs=1", "dataset.num_train=64")
    for override in same:
        assert traced(settled, "model.num_slots=24", override) is first
    assert len(tracing._traces) == count
    for override in ("model.num_slots=25", "budget.micro_batch=32", "model.dropout=0.1", "hardware.precision=bf16"):
        assert traced(settled, "model.num_slots=24", override) is not first


def test_half_precision_halves_what_products_keep(settled):
    full, half = (traced(settled, "model.d_model=128", f"hardware.precision={p}") for p in ("fp32", "bf16"))
    assert half.activations < 0.9 * full.activations
    assert half.states == full.states


def test_a_gpu_keeps_no_attention_probabilities(settled):
    long = ("model=transformer_baseline", "dataset=logiqa", "budget.micro_batch=2", "budget.eval_batch=2")
    host = traced(settled, *long, "model.dropout=0.1", "budget.global_batch=4")
    card = traced(settled, *long, "model.dropout=0.1", "budget.global_batch=4", "hardware.device=cuda")
    assert card.activations < 0.8 * host.activations


def test_evaluating_alone_has_no_gradients(settled):
    found = traced(settled, "budget.steps=0")
    assert (found.gradients, found.optimizer, found.activations) == (0, 0, 0)
    assert found.peak == found.evaluation > found.weights


@pytest.mark.parametrize("name", ["adamw_8bit", "adamw_paged"])
def test_smaller_optimizer_states(settled, name):
    plain, other = traced(settled, "model.d_model=256"), traced(settled, "model.d_model=256", f"optim={name}")
    if name == "adamw_8bit":
        assert other.optimizer < 0.5 * plain.optimizer
    else:
        assert other.paged == other.optimizer == plain.optimizer
