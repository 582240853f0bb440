"""What is said of a job that does not fit, and that the advice is true."""

from functools import partial

import pytest

from rtx_lab.pricing.advice import refusal, smallest_change
from rtx_lab.pricing.price import price

slow = partial(pytest.param, marks=pytest.mark.slow)
DENSE_LARGE = ("model.connection=dense", "model=bilinear_large", "hardware=rtx4090", "dataset=gsm8k")


def test_the_large_dense_model_is_refused_with_its_69_gb(settled):
    job = settled(*DENSE_LARGE)
    priced = price(job)
    assert not priced.fits
    assert priced.states == pytest.approx(69.3e9, rel=1e-3)
    sentence = refusal(job, priced)
    assert "69.3 GB" in sentence
    assert "24 GiB = 25.8 GB" in sentence
    assert sentence.endswith("model.connection=diag")
    assert price(settled(*DENSE_LARGE, "model.connection=diag")).fits


@pytest.mark.parametrize(
    ("job", "followed"),
    [
        (("budget.eval_batch=1",), "budget.micro_batch=16"),
        slow(("budget.micro_batch=1", "budget.eval_batch=64"), "budget.eval_batch=16"),
        slow(
            ("budget.micro_batch=1", "budget.eval_batch=1", "model.max_reasoning_steps=32", "model.num_slots=64"),
            "budget.gradient_checkpointing=true",
        ),
        (("budget.micro_batch=1", "budget.eval_batch=1", "model.d_model=256"), "optim=adamw_8bit"),
        slow(("budget.micro_batch=64", "budget.eval_batch=64"), "budget.micro_batch=8 budget.eval_batch=32"),
    ],
)  # fmt: skip
def test_advice_is_the_change_for_which_there_is_just_room(settled, card, job, followed):
    needed = price(settled("hardware=rtx4090", *job, *followed.split())).peak_bytes
    tight = (*card(needed), *job)
    priced = price(settled(*tight))
    assert not priced.fits
    assert smallest_change(settled(*tight), priced) == followed
    assert price(settled(*tight, *followed.split())).fits


def test_a_job_that_fits_needs_no_advice(settled):
    assert smallest_change(settled(), price(settled())) is None


def test_what_nothing_helps_is_said(settled, card):
    job = settled(*card(1e6))
    assert "choose a smaller model" in refusal(job, price(job))
