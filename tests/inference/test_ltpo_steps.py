"""Improving latents: how far they may go, when a row is done, estimates of the gradient, and controls."""

import math

import pytest
import torch
from latents_to_improve import (
    CONTROLS,
    LENGTHS,
    SEARCHES,
    distance,
    read_rows,
    record_passes,
    searched,
    settings,
    small_model,
    woven_of,
)
from ltpo_by_full_forward import improve

from rtx_lab.core.sections import Ltpo
from rtx_lab.inference.ltpo import drawn, estimated


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture
def read(model):
    return read_rows(model, range(len(LENGTHS)))


@pytest.fixture
def passes(monkeypatch):
    return record_passes(monkeypatch)


@pytest.mark.parametrize("how", [*SEARCHES, *CONTROLS], ids=str)
def test_nothing_is_read_beyond_the_radius(model, read, passes, how):
    how = settings(**how, radius=0.2, lr=0.5, sigma=0.3)
    searched(model, read, how)
    start = woven_of(model, read)
    norm = start.flatten(1).norm(dim=1)
    shares = torch.cat([
        distance(x, start.repeat_interleave(len(x) // 3, 0)) / norm.repeat_interleave(len(x) // 3) for x, _ in passes
    ])  # fmt: skip
    assert shares.max() <= 0.2 + 1e-12
    assert (shares > 0.2 - 1e-9).any()


def test_a_row_that_is_sure_enough_is_read_no_more(model, read, passes):
    first = searched(model, read, settings(max_steps=0))[1][:, 0]
    order = first.argsort(descending=True)
    passes.clear()
    threshold = float(first[order[:2]].mean())
    _, traced = searched(model, read, settings(threshold=threshold, max_steps=4))
    steps = traced[:, 3]
    assert steps[order[0]] == 0
    assert (steps[order[1:]] > 0).all()
    assert (traced[steps < 4, 1] >= threshold).all()
    assert (traced[steps == 4, 0] < threshold).all()
    assert [len(x) for x, _ in passes] == [int((steps >= step).sum()) for step in range(int(steps.max()) + 1)]


@pytest.mark.parametrize("patience", [1, 2])
def test_a_row_waits_so_long_for_a_better_reward(model, read, patience):
    how = settings(estimator="reinforce", max_steps=12, sigma=0.1, lr=1e-4)
    _, traced = searched(model, read, Ltpo(**values_of(how) | {"patience": patience}))
    start = woven_of(model, read)
    for row, text in enumerate(read.texts):
        origin = read.seed[row : row + 1] * 1_000_003 + len(text)
        seen = improve(model, text, start[row], how, lambda step, o=origin: drawn(how, o, step, start)[0])[2]
        ends = [t for t in range(len(seen)) if max(seen[: t - patience + 1], default=math.inf) >= max(seen[: t + 1])]
        wanted = min([t for t in ends if t >= patience], default=12)
        assert traced[row, 3] == wanted
        assert traced[row, 1] == pytest.approx(max(seen[: wanted + 1]), rel=1e-7)
    assert traced[:, 3].min() < 12


def values_of(how):
    return {name: getattr(how, name) for name in Ltpo.__dataclass_fields__}


@pytest.mark.parametrize("how", SEARCHES[2:], ids=str)
def test_estimates_are_the_gradient_in_expectation(how):
    """The reward is c + g A - |A|^2 / 2 around A = 0, where its gradient is g."""
    how = settings(**how, sigma=0.3)
    slope = torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3)
    noise = drawn(how, torch.arange(20_000), 1, slope[None])
    rewards = 0.5 + (noise * slope - noise.square() / 2).sum((-2, -1))
    found = estimated(how, rewards, noise, 1)
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - slope).abs() < 4 * error).all()
    assert error.max() < 0.05
    far_apart = estimated(how, rewards + 100, noise, 1)
    if how.estimator == "reinforce":
        assert far_apart.std() > 20 * found.std()  # the rewards' mean is all noise
    else:
        torch.testing.assert_close(far_apart, found, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("how", SEARCHES, ids=str)
def test_the_control_goes_as_far_in_another_direction(model, read, passes, how):
    def centers(control):
        passes.clear()
        searched(model, read, settings(**how, max_steps=2, sigma=1e-9, control=control))
        one = how.get("num_candidates", 1)
        rows = [x.view(3, -1, 3, 32)[:, 0] for x, _ in passes]
        assert len(rows) == 3
        assert len(passes[1][0]) == 3 * one
        return rows

    start = woven_of(model, read)
    step = 2 - (how["estimator"] == "autograd")  # without a gradient the first step has nothing to go by
    steered, anywhere = centers(None)[step] - start, centers("random_direction")[step] - start
    norm, other = steered.flatten(1).norm(dim=1), anywhere.flatten(1).norm(dim=1)
    assert (norm > 1e-4).all()
    torch.testing.assert_close(norm, other, rtol=1e-4, atol=0)
    cosine = (steered * anywhere).flatten(1).sum(1) / norm / other
    assert (cosine.abs() < 0.4).all()


def test_the_best_of_draws_never_leaves_what_was_woven(model, read, passes):
    how = settings(control="best_of", num_candidates=2, max_steps=40)
    searched(model, read, how)
    start = woven_of(model, read)[:, None]
    assert len(passes) == 41
    assert not any(has_gradient for _, has_gradient in passes)
    for step, (x, _) in list(enumerate(passes))[1:]:
        size = (x.view(3, 2, 3, 32) - start).std((1, 2, 3))
        told = torch.full_like(size, 0.02 * 0.9 ** (step - 1)) * model.size
        torch.testing.assert_close(size, told, rtol=0.25, atol=0)


def test_candidates_that_cannot_be_compared_are_refused():
    assert settings(estimator="antithetic", num_candidates=2).problems() == []
    (problem,) = settings(estimator="baseline").problems()
    assert problem == "ltpo.estimator=baseline compares candidates: ltpo.num_candidates must be 2 or more, got 1"
    (problem,) = settings(estimator="antithetic", num_candidates=3).problems()
    assert "ltpo.num_candidates must be even, got 3" in problem
