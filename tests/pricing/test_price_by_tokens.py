"""Runs whose micro-batches are cut by tokens, priced at the most samples of the largest shape that fit a budget."""

import pytest

from rtx_lab.core.partition import rounded
from rtx_lab.pricing.advice import smallest_change
from rtx_lab.pricing.data import shape_of
from rtx_lab.pricing.price import price
from rtx_lab.pricing.trace import longest_tokens, scored_together, shape_key


def test_a_budget_of_tokens_is_priced_as_the_samples_that_it_holds(settled):
    each = longest_tokens(shape_of(settled().run).dataset)
    by_tokens = price(settled(f"budget.micro_tokens={8 * each + 5}", "budget.eval_batch=16"))
    by_samples = price(settled("budget.micro_batch=8", "budget.eval_batch=16"))
    assert by_tokens.micro_batch == 8
    assert by_tokens.training == by_samples.training
    assert by_tokens.flops_per_step == by_samples.flops_per_step
    assert price(settled("budget.micro_tokens=8")).micro_batch == 1, "a longer sample stands alone"


def test_the_largest_sample_counts_its_source_and_its_target(settled):
    dataset = shape_of(settled("dataset=gsm8k").run).dataset
    lengths = rounded([dataset.max_source_length, dataset.max_target_length])
    assert longest_tokens(dataset) == lengths.sum()
    texts = shape_of(settled("dataset=stories", "model=rdt_tiny").run).dataset
    assert longest_tokens(texts) == rounded([texts.max_source_length])[0]


def test_scoring_takes_twice_the_tokens_shared_by_beams(settled):
    run = settled("dataset=arithmetic", "budget.micro_tokens=4096").run
    dataset = shape_of(run).dataset
    assert scored_together(run, dataset, 10) == 20
    run.generation.num_beams = 8
    assert scored_together(run, dataset, 10) == 2
    assert scored_together(run, dataset, 1) == 1
    run.budget.micro_tokens = None
    assert scored_together(run, dataset, 1) == run.budget.eval_batch


def test_auto_is_priced_at_the_most_samples_that_fit(settled, card):
    needed = price(settled("hardware=rtx4090", "budget.micro_batch=16", "budget.eval_batch=1")).peak_bytes
    tight = (*card(1.02 * needed), "budget.eval_batch=1")
    assert price(settled(*tight, "budget.micro_tokens=auto")).micro_batch == 16


@pytest.mark.slow
def test_the_advice_is_a_smaller_budget(settled, card):
    each = longest_tokens(shape_of(settled().run).dataset)
    sizes = ("budget.eval_batch=1", f"budget.micro_tokens={64 * each}")
    needed = price(settled("hardware=rtx4090", "budget.micro_batch=16", "budget.eval_batch=1")).peak_bytes
    job = settled(*card(needed), *sizes)
    change = smallest_change(job, price(job))
    assert change == f"budget.micro_tokens={16 * each}"
    assert price(settled(*card(needed), sizes[0], change)).fits


@pytest.mark.parametrize(
    ("first", "second"), [("micro_tokens=2000", "micro_tokens=9000"), ("micro_tokens=2000", "micro_batch=1")]
)
def test_other_numbers_of_samples_are_other_shapes(settled, first, second):
    one, other = (settled(f"budget.{override}").run for override in (first, second))
    assert shape_key(one, 64) != shape_key(other, other.budget.micro_batch or 64)
