"""Gates never rise, stay in [0, 1], ignore padding, and can always be corrected."""

import pytest
import recursion_by_loops as loops
import torch

from rtx_lab.nn.gates import MeanGate, MonotoneGate, masked_mean

B, L, D, H = 5, 8, 16, 4


def _gate(kind="monotone"):
    torch.manual_seed(0)
    return MonotoneGate(D, H, 12, 0.0) if kind == "monotone" else MeanGate(D, 12)


def _states(num_states, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [3 * torch.randn(B, L, D, generator=generator, dtype=dtype) for _ in range(num_states)]


def _readings(gate, states, real=None):
    noise, pooled = gate.start(states[0], real)
    noises = [noise]
    for state in states[1:]:
        noise, pooled = gate.step(state, real, noise, pooled)
        noises.append(noise)
    return torch.stack(noises)


@pytest.mark.parametrize("kind", ["monotone", "mean"])
@pytest.mark.parametrize("push", [0.0, -8.0, 8.0])
def test_the_estimate_never_rises_and_stays_between_0_and_1(kind, push):
    gate = _gate(kind)
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter += 0.5 * torch.randn(parameter.shape)
        (gate.level if kind == "monotone" else gate.outer).bias += push
    noises = _readings(gate, _states(40))
    assert (noises[1:] <= noises[:-1]).all()
    assert (noises >= 0).all()
    assert (noises <= 1).all()
    assert noises.unique().numel() > B


def test_it_starts_half_way_and_falls_by_about_one_of_twenty_steps():
    noises = _readings(_gate(), [state / 3 for state in _states(4)])
    assert (noises[0] - 0.5).abs().max() < 0.15
    falls = 20 * (noises[:-1] - noises[1:])
    assert 0.1 < falls.min() <= falls.max() < 5
    assert 1 < falls.mean() < 2


def test_an_estimate_at_0_still_learns():
    gate, states = _gate(), _states(3)
    with torch.no_grad():
        gate.level.bias.fill_(26.0)
    noises = _readings(gate, states)
    assert (noises == 0).all()
    (noises - 0.5).square().sum().backward()
    silent = [name for name, value in gate.named_parameters() if value.grad is None or not value.grad.any()]
    assert silent in ([], ["pool.key.bias"])  # a constant added to all scores changes no softmax
    optimizer = torch.optim.Adam(gate.parameters(), lr=0.04)
    for _ in range(80):
        optimizer.zero_grad()
        (_readings(gate, states) - 0.5).square().sum().backward()
        optimizer.step()
    assert (_readings(gate, states) - 0.5).abs().max() < 0.05


def test_every_head_has_gradient_wherever_the_estimate_is():
    for level in (-10.0, 0.0, 10.0, 20.0, 40.0):
        gate = _gate()
        with torch.no_grad():
            gate.level.bias.fill_(level)
        _readings(gate, _states(3)).sum().backward()
        assert gate.level.bias.grad is not None
        assert gate.level.bias.grad.abs().item() > 1e-6  # through the estimates of later steps too
        assert gate.fall.bias.grad is not None
        assert gate.fall.bias.grad.abs().item() > 1e-3


def test_no_gradient_reaches_the_state_but_earlier_estimates_do_get_one():
    gate = _gate()
    states = [state.requires_grad_() for state in _states(3)]
    noises = _readings(gate, states)
    noises[-1].sum().backward()
    assert all(state.grad is None for state in states)
    assert gate.level.weight.grad.any()  # read at the first state alone


def test_pooling_equals_torchs_multi_head_attention():
    pool = _gate().pool.double()
    with torch.no_grad():
        for part in (pool.query, pool.key, pool.value, pool.output):
            part.bias.normal_()
    state = _states(1, torch.float64)[0]
    real = torch.arange(L) < torch.tensor([L, 3, 1, 6, 2])[:, None]
    pooled = pool(state, real)
    for b in range(B):
        torch.testing.assert_close(pooled[b], loops.pool(pool, state[b][real[b]]), rtol=1e-11, atol=1e-12)
    assert torch.equal(pool(state, None), pool(state, torch.ones(B, L, dtype=torch.bool)))


@pytest.mark.parametrize("kind", ["monotone", "mean"])
def test_padding_changes_nothing_and_an_empty_row_stays_finite(kind):
    gate, states = _gate(kind).double(), _states(4, torch.float64)
    real = torch.arange(L) < torch.tensor([L, 3, 1, 6, 0])[:, None]
    noises = _readings(gate, states, real)
    torch.testing.assert_close(noises[:, 1:2], _readings(gate, [state[1:2, :3] for state in states]))
    noises.sum().backward()
    assert noises.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in gate.parameters())


def test_readings_are_float32_under_autocast():
    states = _states(2)
    for kind in ("monotone", "mean"):
        gate = _gate(kind)
        exact = _readings(gate, states)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            noises = _readings(gate, states)
        assert noises.dtype == torch.float32
        torch.testing.assert_close(noises, exact)


def test_the_mean_gate_is_a_running_minimum_that_teaches_the_encoder():
    gate = _gate("mean")
    states = [state.requires_grad_() for state in _states(3)]
    single = torch.stack([gate.start(state, None)[0] for state in states])
    noises = _readings(gate, states)
    assert torch.equal(noises, single.cummin(0).values)
    noises.sum().backward()
    assert states[0].grad is not None
    assert states[0].grad.any()


def test_masked_mean_of_nothing_is_zero():
    state = _states(1)[0]
    real = torch.zeros(B, L, dtype=torch.bool)
    real[0, :2] = True
    torch.testing.assert_close(masked_mean(state, real)[0], state[0, :2].mean(0))
    assert not masked_mean(state, real)[1:].any()
