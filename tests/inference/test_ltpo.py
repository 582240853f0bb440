"""Improving latents: the reward and its gradient on a cache, the search of a batch, and what is kept."""

import math

import pytest
import torch
from latents_to_improve import (
    CONTROLS,
    LENGTHS,
    SEARCHES,
    VOCAB,
    distance,
    read_rows,
    record_passes,
    searched,
    settings,
    small_model,
    woven_of,
)
from ltpo_by_full_forward import improve, reward, reward_and_gradient

from rtx_lab.core.sections import OBJECTIVES
from rtx_lab.inference import ltpo
from rtx_lab.inference.confidence import objective_of
from rtx_lab.inference.ltpo import climb, drawn, score


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture
def read(model):
    return read_rows(model, range(len(LENGTHS)))


@pytest.fixture
def passes(monkeypatch):
    return record_passes(monkeypatch)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("top_k", [10, 3, 99])
def test_objectives_are_what_they_are_by_definition(objective, top_k):
    logits = 3 * torch.randn(2, 3, VOCAB, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = objective_of(settings(objective=objective, top_k=top_k))(logits)
    wanted = torch.stack([reward(row, objective, top_k) for row in logits])
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_the_originals_objective_is_no_measure_of_how_sure_a_prediction_is():
    flat = torch.zeros(1, 151_936)
    over_ten, certain = flat.clone(), flat.clone()
    over_ten[:, 10:] = certain[:, 1:] = -100.0
    value = {name: objective_of(settings(objective=name)) for name in OBJECTIVES}
    faithful = [float(value["topk_neglogp"](logits)) for logits in (over_ten, flat, certain)]
    assert faithful == pytest.approx([math.log(10), math.log(151_936), 0.9 * 10 * math.log(10)], abs=2e-3)
    assert faithful[0] < faithful[1]  # the flattest of all beats ten tokens
    for name in ("entropy", "max_prob"):
        assert value[name](flat) < value[name](over_ten) < value[name](certain), name


@pytest.mark.parametrize("role", ["reader", "tuned"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_cached_reward_and_gradient_are_those_of_the_whole_text(model, monkeypatch, role, objective):
    monkeypatch.setattr(model, "reader_role", role)
    for params in model.parts()["tuned"][1::2] if role == "tuned" else []:
        monkeypatch.setattr(params, "data", torch.full_like(params, 0.05))
    read = read_rows(model, range(3))
    latents = woven_of(model, read)
    how = objective_of(settings(objective=objective))
    with torch.no_grad():
        found, slope = climb(model, read.reading.reader, latents, how)
        torch.testing.assert_close(score(model, read.reading.reader, latents, how), found, rtol=1e-12, atol=1e-12)
    for row, text in enumerate(read.texts):
        wanted, gradient = reward_and_gradient(model, text, latents[row], objective)
        assert gradient.norm() > 1e-4
        torch.testing.assert_close(found[row], wanted, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(slope[row], gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("how", SEARCHES, ids=str)
@pytest.mark.parametrize("objective", ["entropy", "topk_neglogp"])
def test_a_batch_finds_what_each_text_finds_by_full_forwards(model, read, how, objective):
    how = settings(**how, objective=objective)
    with torch.no_grad():
        found, traced = searched(model, read, how)
        start = woven_of(model, read)
    for row, text in enumerate(read.texts):
        origin = read.seed[row : row + 1] * 1_000_003 + len(text)
        best, value, seen = improve(model, text, start[row], how, lambda step, o=origin: drawn(how, o, step, start)[0])
        assert len(seen) == 1 + how.max_steps * how.num_candidates
        torch.testing.assert_close(found[row], best, rtol=1e-7, atol=1e-9)
        moved = float((best - start[row]).norm() / start[row].norm())
        wanted = [seen[0], float(value), moved, how.max_steps, 1]
        assert traced[row].tolist() == pytest.approx(wanted, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("how", [*SEARCHES, *CONTROLS], ids=str)
@pytest.mark.parametrize("ends", [{}, {"patience": 1, "radius": 0.3}, {"threshold": -2.0}], ids=str)
def test_a_row_gets_in_a_batch_what_it_gets_alone(model, read, how, ends):
    latents, traced = searched(model, read, settings(**how, **ends))
    for row in range(len(LENGTHS)):
        alone, told = searched(model, read_rows(model, [row]), settings(**how, **ends))
        torch.testing.assert_close(latents[row], alone[0], rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(traced[row], told[0], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("how", [*SEARCHES, *CONTROLS], ids=str)
def test_several_passes_are_as_one(model, read, passes, monkeypatch, how):
    wanted = searched(model, read, settings(**how))
    num_passes = len(passes)
    monkeypatch.setattr(ltpo, "MOST_LOGITS", 2 * 3 * VOCAB)  # two candidates
    torch.testing.assert_close(searched(model, read, settings(**how)), wanted, rtol=1e-9, atol=1e-11)
    assert len(passes) > 2 * num_passes
    assert max(len(x) for x, _ in passes[num_passes:]) == 2


@pytest.mark.parametrize("how", [*SEARCHES, *CONTROLS], ids=str)
@pytest.mark.parametrize("objective", ["entropy", "margin"])
def test_what_is_kept_was_scored_and_is_no_worse_than_what_was_woven(model, read, passes, how, objective):
    how = settings(**how, objective=objective, sigma=0.3)
    latents, traced = searched(model, read, how)
    start, stream = woven_of(model, read), read.reading.reader
    seen = [x for candidates, _ in passes for x in candidates]
    with torch.no_grad():
        torch.testing.assert_close(score(model, stream, latents, objective_of(how)), traced[:, 1])
        torch.testing.assert_close(score(model, stream, start, objective_of(how)), traced[:, 0])
    assert all(any(torch.equal(row, x) for x in seen) for row in latents)
    assert (traced[:, 1] >= traced[:, 0]).all()
    torch.testing.assert_close(traced[:, 2], distance(latents, start) / start.flatten(1).norm(dim=1))


@pytest.mark.parametrize("kind", ["prompt", "inference"])
def test_latents_move_and_the_reward_rises_where_gradients_are_off(model, read, kind):
    with torch.no_grad():
        latents, traced = searched(model, read, settings(), kind)
        start = woven_of(model, read, kind)
    assert (distance(latents, start) > 1e-2).all()
    assert (traced[:, 1] > traced[:, 0] + 1e-2).all()
    assert not latents.requires_grad
    assert all(weight.grad is None for weight in model.parameters())


def test_the_text_is_never_read_again_and_the_stream_stays_as_it_is(model, read, monkeypatch):
    shapes, plain = [], ltpo.latent_stream.read
    before = read.reading.reader.cache.layers[0].keys.clone()

    def recorded(body, stream, x_BTD, real_BT):
        shapes.append(tuple(x_BTD.shape))
        return plain(body, stream, x_BTD, real_BT)

    monkeypatch.setattr(ltpo.latent_stream, "read", recorded)
    searched(model, read, settings(estimator="antithetic", num_candidates=4))
    assert shapes == [(3, 3, 32)] * 2 + [(12, 3, 32)] * 5  # the weaver, what was woven, five steps
    assert torch.equal(read.reading.reader.cache.layers[0].keys, before)
    assert read.reading.reader.real_BL.shape == (3, max(LENGTHS))


def test_no_step_leaves_what_was_woven(model, read):
    latents, traced = searched(model, read, settings(max_steps=0))
    assert torch.equal(latents, woven_of(model, read))
    with torch.no_grad():
        wanted = score(model, read.reading.reader, latents, objective_of(settings()))
    none, one = torch.zeros_like(wanted), torch.ones_like(wanted)
    assert torch.equal(traced, torch.stack([wanted, wanted, none, none, one], dim=1))


def test_latents_behind_sentences_stay_as_woven_where_the_prompts_alone_are_improved(model, read):
    latents, traced = searched(model, read, settings(where="prompt"), "inference")
    assert torch.equal(latents, woven_of(model, read, "inference"))
    assert not traced.any()
    assert searched(model, read, settings(where="prompt"), "prompt")[1][:, 2].all()
