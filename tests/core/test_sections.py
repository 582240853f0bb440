"""The budget section: two ways to cut a step, of which one is given."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from rtx_lab.core.errors import UsageError
from rtx_lab.core.schema import settle
from rtx_lab.core.sections import Budget
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
