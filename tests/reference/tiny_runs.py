"""Runs of seconds through `train.py`: the overrides that make them small, and what two equal runs have in common."""

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TINY = (
    *("dataset.num_train=256", "dataset.num_validation=64", "dataset.num_test=64"),
    *("model.d_model=16", "model.num_slots=8", "model.bilinear_rank=4", "hardware=cpu", "hardware.num_threads=1"),
    *("budget.eval_every=4", "budget.log_every=1", "tracking.tensorboard=false"),
)


def numbers(run):
    """The logged lines of a run without what no two runs share: times and memory."""
    timed = ("_s", "memory_gb", "data_wait")
    return [{k: v for k, v in record.items() if not k.endswith(timed)} for record in run.read_metrics()]
