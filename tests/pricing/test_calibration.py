"""What finished runs teach: medians over at least three, of the same hardware, never far below the traced price."""

import json

import pytest

from rtx_lab.pricing.calibration import SMALLEST_RATIO, Calibration, calibrate


@pytest.fixture
def finish(tmp_path):
    """Leave the result of a run behind."""
    numbers = iter(range(1000))

    def write(memory=1.2, time=2.0, hardware="rtx4090", status="done", events=()):
        place = tmp_path / "main" / f"run-{next(numbers)}"
        place.mkdir(parents=True)
        price = {"hardware": hardware, "predicted_raw_peak_memory_gb": 10.0, "raw_step_time_s": 0.5}
        result = {
            "status": status, "events": list(events), "price": price,
            "peak_memory_gb": 10 * memory, "step_time_s": 0.5 * time,
        }  # fmt: skip
        (place / "result.json").write_text(json.dumps(result))
        return place

    return write


def test_the_median_of_three_runs_counts(finish, tmp_path):
    for memory, time in ((1.1, 2.0), (1.2, 3.0), (9.0, 90.0)):
        finish(memory, time)
    found = calibrate(tmp_path, "rtx4090")
    assert found.memory_ratio == pytest.approx(1.2)
    assert found.time_ratio == pytest.approx(3.0)
    assert (found.num_memory, found.num_time) == (3, 3)


def test_two_runs_are_too_few(finish, tmp_path):
    finish()
    finish()
    assert calibrate(tmp_path, "rtx4090") == Calibration(num_memory=2, num_time=2)


def test_memory_is_never_priced_far_below_the_trace(finish, tmp_path):
    for _ in range(3):
        finish(memory=0.4, time=0.4)
    found = calibrate(tmp_path, "rtx4090")
    assert found.memory_ratio == SMALLEST_RATIO
    assert found.time_ratio == pytest.approx(0.4)


def test_other_cards_failures_and_halved_micro_batches_say_nothing(finish, tmp_path):
    for _ in range(3):
        finish(hardware="rtx3090")
        finish(status="failed")
        finish(events=[{"event": "out_of_memory", "step": 1}])
    assert calibrate(tmp_path, "rtx4090") == Calibration()


def test_broken_and_older_results_are_passed_over(finish, tmp_path):
    (finish() / "result.json").write_text('{"rtx4090": ')
    (finish() / "result.json").write_text('["rtx4090"]')
    (finish() / "result.json").write_text('{"status": "done", "price": null, "name": "rtx4090"}')
    assert calibrate(tmp_path, "rtx4090") == Calibration()
    assert calibrate(tmp_path / "nowhere", "rtx4090") == Calibration()
