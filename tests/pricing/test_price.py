"""A price: steps, memory against room, hours, energy and disk, from a settled configuration alone."""

import json

import pytest

from rtx_lab.core.device import GB
from rtx_lab.pricing.calibration import Calibration
from rtx_lab.pricing.price import price
from rtx_lab.pricing.rows import COLUMNS, cells

MODELS = ("bilinear_tiny", "bilinear_base", "bilinear_large", "linear", "transformer_baseline")
DATASETS = {
    "reasoning": 8000, "arithmetic": 8000, "gsm8k": 6726, "logiqa": 7376, "strategyqa": 1443, "commonsenseqa": 8767,
    "sst2": 60614,
}  # fmt: skip
"""Rows to train on; StrategyQA as the hub splits it."""


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_dataset_is_priced_without_data(settled, dataset):
    small = ("budget.micro_batch=2", "budget.global_batch=64", "budget.eval_batch=2", "budget.epochs=1")
    priced = price(settled(f"dataset={dataset}", *small))
    assert priced.steps == -(-DATASETS[dataset] // 64)
    assert priced.peak_bytes > priced.states
    json.dumps(priced.as_plain(), allow_nan=False)


@pytest.mark.parametrize("model", ["bilinear_large", "transformer_baseline"])
def test_a_job_is_priced_for_a_card_that_is_not_there(settled, model):
    small = ("budget.micro_batch=4", "budget.eval_batch=4")
    priced = price(settled(f"model={model}", "dataset=gsm8k", "hardware=rtx4090", *small))
    assert priced.fits
    assert priced.room_bytes < 24 * GB
    assert priced.hours is not None
    assert priced.hours > 0
    assert priced.kwh == pytest.approx(priced.hours * 0.45)


@pytest.mark.slow
@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_priced_on_every_dataset(settled, model, dataset):
    small = ("budget.micro_batch=2", "budget.eval_batch=2", "hardware=rtx3090")
    priced = price(settled(f"model={model}", f"dataset={dataset}", *small))
    assert priced.fits
    assert priced.states < priced.peak_bytes


def test_a_corpus_of_the_local_split_has_its_own_count(settled, tmp_path, monkeypatch):
    (tmp_path / "strategy_qa").mkdir()
    monkeypatch.setenv("RTX_LAB_DATA", str(tmp_path))
    assert price(settled("dataset=strategyqa", "budget.epochs=1", "budget.micro_batch=2")).steps == -(-1855 // 64)


def test_an_unknown_card_has_no_hours(settled):
    rates = ("hardware.peak_tflops=null", "hardware.bandwidth_gb_s=null")
    priced = price(settled("hardware=rtx4090", *rates))
    assert priced.hours is None
    assert priced.kwh is None
    assert dict(zip(COLUMNS, cells(priced), strict=True))["hours"] == "-"


def test_a_processor_has_rates_by_its_threads(settled):
    unknown = ("hardware.peak_tflops=null", "hardware.bandwidth_gb_s=null", "hardware.power_w=null")
    one, two = (price(settled(*unknown, f"hardware.num_threads={n}")).hours for n in (1, 2))
    assert one > two > 0.5 * one


def test_twice_the_epochs_take_twice_as_long(settled):
    once, twice = (price(settled("dataset=gsm8k", "model.d_model=64", f"budget.epochs={n}")) for n in (10, 20))
    assert twice.steps == 2 * once.steps
    assert twice.hours == pytest.approx(2 * once.hours, rel=0.1)


def test_disk_holds_the_last_checkpoints_and_the_best(settled):
    priced = price(settled("budget.keep_last=2"))
    assert priced.disk_gb * GB == pytest.approx(3 * (priced.weights + priced.optimizer), rel=0.2)


def test_raw_and_calibrated_values_stand_side_by_side(settled):
    raw = price(settled())
    priced = price(settled(), Calibration(memory_ratio=1.5, time_ratio=3.0, num_memory=4, num_time=4))
    assert (priced.raw_peak_bytes, priced.raw_step_time_s) == (raw.peak_bytes, raw.step_time_s)
    assert priced.peak_bytes == pytest.approx(1.5 * raw.peak_bytes)
    assert priced.step_time_s == pytest.approx(3 * raw.step_time_s)
    assert priced.predicted_raw_peak_memory_gb == raw.predicted_peak_memory_gb


def test_a_calibration_can_turn_a_fit_into_a_refusal(settled, card):
    job = settled(*card(price(settled("hardware=rtx4090")).peak_bytes))
    assert price(job).fits
    assert not price(job, Calibration(memory_ratio=1.1)).fits


def test_scoring_alone_can_be_what_does_not_fit(settled, card):
    sizes = ("budget.micro_batch=1", "budget.eval_batch=2048")
    whole = price(settled("hardware=rtx4090", *sizes))
    assert whole.evaluation > 2 * whole.training
    job = price(settled(*card(whole.peak_bytes - whole.training), *sizes))
    assert job.training_fits
    assert not job.fits


def test_a_gpu_holds_a_workspace_and_no_paged_state(settled):
    wide = ("hardware=rtx4090", "model.d_model=256", "budget.eval_batch=1")
    plain, paged = price(settled(*wide)), price(settled(*wide, "optim=adamw_paged"))
    assert plain.peak_bytes - plain.training == paged.peak_bytes - (paged.training - paged.paged) > 0
    assert paged.paged > 0
    processor = price(settled("budget.eval_batch=1"))
    assert processor.peak_bytes == processor.training


def test_auto_is_priced_at_the_largest_micro_batch_that_fits(settled, card):
    auto = ("budget.eval_batch=1", "budget.micro_batch=auto")
    assert price(settled("hardware=rtx4090", *auto)).micro_batch == 64
    needed = price(settled("hardware=rtx4090", "budget.eval_batch=1", "budget.micro_batch=16")).peak_bytes
    priced = price(settled(*card(1.02 * needed), *auto))
    assert priced.fits
    assert priced.micro_batch == 16
