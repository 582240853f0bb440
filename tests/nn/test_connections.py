"""Pair maps equal their definition, ignore the diagonal and start at the size of the state."""

import pair_maps_by_loops as slow
import pytest
import torch

from rtx_lab.core.errors import UsageError
from rtx_lab.nn.connections import CONNECTIONS, build_connection, orthonormal_panels

N, D, R, B = 5, 8, 3, 4
PAIRED = ("dense", "core", "diag")


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def _build(connection, **sizes):
    return build_connection(connection, **{"num_slots": N, "d_model": D, "bilinear_rank": R} | sizes)


def _maps(module):
    return module.maps() if hasattr(module, "maps") else slow.explicit_maps(module)


def _gradients(module, influence, h):
    out = influence(h)
    return out, torch.autograd.grad(
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum(), [h, *module.parameters()]
    )


@pytest.mark.parametrize("connection", PAIRED)
@pytest.mark.parametrize("definition", [slow.influence_by_loops, slow.influence_by_einsum])
def test_pair_maps_equal_their_definition_with_gradients(connection, definition):
    module = _build(connection)
    h = torch.randn(B, N, D, requires_grad=True)
    fast, fast_gradients = _gradients(module, module, h)
    plain, plain_gradients = _gradients(module, lambda h: definition(h, *_maps(module), module.scale), h)
    assert (fast - plain).abs().max() <= 1e-12
    for ours, theirs in zip(fast_gradients, plain_gradients, strict=True):
        assert (ours - theirs).abs().max() <= 1e-12


def test_scalar_is_one_number_per_pair():
    module = _build("scalar")
    h = torch.randn(B, N, D)
    expected = torch.zeros_like(h)
    for i in range(N):
        for j in range(N):
            if i != j:
                expected[:, j] += module.scale * (module.source[i, j] @ module.target[i, j]) * h[:, i]
    torch.testing.assert_close(module(h), expected, rtol=0, atol=1e-12)


def test_linear_mixes_the_slot_axis():
    module = build_connection("linear", num_slots=N, d_model=D, bilinear_rank=1)
    h = torch.randn(B, N, D)
    expected = torch.stack([sum(module.weight[i, j] * h[:, i] for i in range(N)) for j in range(N)], dim=1)
    torch.testing.assert_close(module(h), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("connection", ["dense", "core", "diag", "scalar"])
def test_a_slot_never_influences_itself(connection):
    module = _build(connection)
    h = torch.randn(1, N, D, requires_grad=True)
    for slot in range(N):
        (gradient,) = torch.autograd.grad(module(h)[0, slot].sum(), h)
        assert (gradient[0, slot] == 0).all()
        others = [other for other in range(N) if other != slot]
        assert (gradient[0, others].abs().sum(-1) > 0).all()
    assert (module.strength().diagonal() == 0).all()


def test_diagonal_values_are_dead_weight():
    module = _build("diag")
    h = torch.randn(B, N, D)
    before = module(h)
    with torch.no_grad():
        module.pair.diagonal(dim1=1, dim2=2).fill_(torch.nan)
    assert torch.equal(module(h), before)
    module(h).sum().backward()
    assert (module.pair.grad.diagonal(dim1=1, dim2=2) == 0).all()


@pytest.mark.parametrize("connection", PAIRED)
def test_strength_is_the_norm_of_the_explicit_map(connection):
    module = _build(connection)
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    source, target = _maps(module)
    expected = torch.linalg.matrix_norm(source @ target) * module.scale * (1 - torch.eye(N))
    torch.testing.assert_close(module.strength(), expected)


@pytest.mark.parametrize("connection", PAIRED)
def test_penalty_is_the_mean_over_pairs(connection):
    module = _build(connection)
    assert module.penalty() < 1e-12  # the panels start orthonormal
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    match connection:
        case "dense":
            source, target = module.maps()
        case _:
            # Every slot appears N - 1 times as source and as target, so that the mean over pairs is that over slots.
            source = module.read[:, None].expand(-1, N, -1, -1)
            target = module.write[None].expand(N, -1, -1, -1)
    torch.testing.assert_close(module.penalty(), slow.mean_orthogonality_error(source, target))


def test_scalar_penalty_is_exact_without_sampling():
    module = _build("scalar")
    for parameter in module.parameters():
        parameter.data *= 1.5
    expected = (slow.vector_penalty(module.source) + slow.vector_penalty(module.target)) / 2
    torch.testing.assert_close(module.penalty(), expected)
    module.penalty().backward()
    assert module.source.grad.isfinite().all()


def test_panels_are_orthonormal_and_uniform():
    panels = orthonormal_panels(2000, 3, 2)
    torch.testing.assert_close(panels.mT @ panels, torch.eye(2).expand(2000, -1, -1))
    assert panels.mean(0).abs().max() < 0.06  # without the sign fix one entry would be biased to one side


@pytest.mark.parametrize("connection", CONNECTIONS)
@pytest.mark.parametrize(
    "sizes",
    [{"num_slots": 24, "d_model": 32, "bilinear_rank": 4}, {"num_slots": 6, "d_model": 64, "bilinear_rank": 16}],
)
def test_influence_starts_with_unit_variance(connection, sizes):
    module = build_connection(connection, **sizes)
    influence = module(torch.randn(64, sizes["num_slots"], sizes["d_model"]))
    assert 0.6 < influence.std() < 1.6


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_builds_and_runs_on_meta(connection):
    with torch.device("meta"):
        module = _build(connection)
        assert module(torch.randn(B, N, D)).shape == (B, N, D)
        assert module.strength().shape == (N, N)


def test_single_slot_receives_nothing():
    for connection in ("dense", "core", "diag", "scalar"):
        module = _build(connection, num_slots=1)
        assert (module(torch.randn(B, 1, D)) == 0).all()
        assert module.penalty().isfinite()


def test_unknown_connection_is_named():
    with pytest.raises(UsageError, match=r"model.connection must be one of dense, core, diag, scalar, linear, got 'x'"):
        _build("x")
