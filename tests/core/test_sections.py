"""The fixed sections: two ways to cut a step, and what improves latents."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from rtx_lab.core.errors import UsageError
from rtx_lab.core.rundir import signature
from rtx_lab.core.schema import settle
from rtx_lab.core.sections import Budget, Generation, Ltpo
from rtx_lab.core.training import Plan
from rtx_lab.sweep.door import COMPOSE_KEYWORDS

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"micro_batch": 8, "micro_tokens": 4096}, "budget.micro_batch=8 and budget.micro_tokens=4096 are two ways"),
        ({"micro_batch": "auto", "micro_tokens": "auto"}, "give one of them"),
        ({"micro_tokens": 0}, "budget.micro_tokens must be a positive integer or `auto`, got 0"),
        ({"micro_tokens": "many"}, "budget.micro_tokens must be a positive integer or `auto`, got 'many'"),
        ({"micro_tokens": 1.5}, "budget.micro_tokens must be"),
        ({"sort_window": 0}, "budget.sort_window must be a positive integer, got 0"),
    ],
)
def test_wrong_values_are_one_sentence(values, words):
    (problem,) = Budget(**values).problems()
    assert words in problem


@pytest.mark.parametrize("values", [{}, {"micro_tokens": 64}, {"micro_tokens": "auto"}, {"micro_batch": "auto"}])
def test_one_way_is_enough(values):
    assert Budget(**values).problems() == []
    assert Plan.of(Budget(**values, epochs=2), 10).steps == 20


def test_a_budget_of_tokens_leaves_the_micro_batch_empty_when_settled_again():
    with initialize_config_dir(config_dir=str(CONF), **COMPOSE_KEYWORDS):
        config = compose("config", overrides=["budget.micro_tokens=4096"], return_hydra_config=True)
        both = compose(
            "config", overrides=["budget.micro_tokens=4096", "budget.micro_batch=8"], return_hydra_config=True
        )
    first = settle(config)
    assert (first.run.budget.micro_batch, first.run.budget.eval_batch) == (None, 2 * first.run.budget.global_batch)
    assert settle(first.config).config == first.config
    with pytest.raises(UsageError, match="two ways"):
        settle(both)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"estimator": "reinforcee"}, "ltpo.estimator must be one of reinforce, baseline, antithetic, autograd, got"),
        ({"objective": "max_probs"}, "did you mean max_prob?"),
        ({"control": "none"}, "ltpo.control must be one of random_direction, best_of, got 'none'"),
        ({"where": "answer"}, "ltpo.where must be one of all, prompt"),
        ({"max_steps": -1}, "ltpo.max_steps must be 0 (no step) or more, got -1"),
        ({"lr": 0.0}, "ltpo.lr must be a positive number, got 0.0"),
        ({"sigma": float("nan")}, "ltpo.sigma must be a positive number, got nan"),
        ({"radius": -0.1}, "ltpo.radius must be a positive number, got -0.1"),
        ({"decay": 1.5}, "ltpo.decay must be above 0 and at most 1, got 1.5"),
        ({"threshold": float("inf")}, "ltpo.threshold must be a finite number, got inf"),
        ({"top_k": 0}, "ltpo.top_k must be a positive integer, got 0"),
        ({"num_candidates": 0}, "ltpo.num_candidates must be a positive integer, got 0"),
    ],
)
def test_wrong_values_of_ltpo_are_one_sentence(values, words):
    (problem,) = Ltpo(**values).problems()
    assert words in problem


def test_the_numbers_of_ltpo_are_the_originals():
    ltpo = Ltpo()
    assert (ltpo.lr, ltpo.sigma, ltpo.decay, ltpo.max_steps, ltpo.top_k) == (0.03, 0.1, 0.99, 10, 10)
    assert ltpo.problems() == Ltpo(max_steps=0, control="best_of", radius=0.5, patience=2).problems() == []
    assert Ltpo().work == Ltpo(lr=1.0).work == []
    assert Ltpo(enabled=True, lr=1.0).work == Ltpo(enabled=True).work != Ltpo(enabled=True, max_steps=3).work


@pytest.mark.parametrize("temperature", [-0.5, float("inf"), float("nan")])
def test_a_temperature_is_zero_or_more(temperature):
    assert Generation().problems() == Generation(temperature=0.7).problems() == []
    assert "generation.temperature must be 0 (greedy) or more" in Generation(temperature=temperature).problems()[0]


def test_what_came_later_and_is_off_leaves_a_signature_as_it_was():
    old = {"seed": 1, "generation": {"num_beams": 1}}
    now = {"seed": 1, "generation": {"num_beams": 1, "temperature": 0.0}, "ltpo": {"enabled": False, "lr": 0.03}}
    assert signature(now) == signature(old) == signature({**now, "ltpo": {"enabled": False, "lr": 1.0}})
    assert signature({**now, "ltpo": {"enabled": True}}) != signature(old)
    assert signature({**now, "generation": {"num_beams": 1, "temperature": 0.5}}) != signature(old)
