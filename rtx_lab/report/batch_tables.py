"""The tables of a batch study: memory, speed, time and score of every arm; the same for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from rtx_lab.report.batch_arms import Arm, BatchStudy
from rtx_lab.report.batch_runs import SHARE, shape_words
from rtx_lab.report.batch_runs import out_of_memory as events_of
from rtx_lab.report.document import Table
from rtx_lab.report.pairing import lower_is_better
from rtx_lab.report.runs import Run
from rtx_lab.report.wording import number, words

NOT_MEASURED = "not measured"
MOST_ROWS = 30

_MEMORY = ("mean_allocated_gb", "peak_allocated_gb", "mean_reserved_gb", "peak_reserved_gb")
_SPEED = ("steps_per_s", "samples_per_s", "tokens_per_s", "padded_tokens_per_s", "padding_efficiency")
_TIME = ("data_min", "train_min", "evaluation_min", "checkpoint_min", "rest_min", "total_min")
_SCORE = ("final_score", "best_score", "test_score")
_REACHED = ("minutes_to_target", "steps_to_target", "gain_per_min", "score_per_gb")
_TO_TARGET = {"minutes_to_target": 2, "steps_to_target": 0}
QUANTITIES = (*_MEMORY, *_SPEED, *_TIME, *_SCORE, *_REACHED)
"""All that is written down of an arm and of a run, in this order."""


def target_words(study: BatchStudy) -> str:
    """Return what a run has to reach to have come close to the best one."""
    if lower_is_better(study.leaf):
        return f"the smallest {words(study.leaf)} of any run divided by {SHARE:g}"
    return f"{SHARE:.0%} of the best score of any run"


def memory_table(study: BatchStudy) -> Table:
    """Set mean and peak memory side by side, allocated and reserved, and how often it ran out."""
    columns = ("arm", "mean allocated (GB)", "peak allocated (GB)", "mean reserved (GB)", "peak reserved (GB)",
               "out of memory")  # fmt: skip
    rows = []
    for arm in study.arms:
        times = NOT_MEASURED if arm.num_oom is None else str(arm.num_oom)
        rows.append([arm.name, *(_cell(arm, key, 3) for key in _MEMORY), times])
    note = (
        "On a CPU allocated is the resident size of the process, and nothing is reserved."
        if study.on_cpu
        else "Allocated: tensors, the mean of what was alive when a line was logged, between two steps. Reserved: what "
        "the allocator held of the card. Of several processes, the first."
    )
    return Table(title="Memory", columns=columns, rows=rows, numeric=frozenset(columns[1:]),
                 note=f"Means over seeds; GB of 2^30 bytes. {note}")  # fmt: skip


def out_of_memory_table(study: BatchStudy) -> Table:
    """Name every time that memory ran out, with the shape that did not fit; without rows where it never did."""
    rows = [[arm.name, where] for arm in study.arms for where in arm.shapes]
    return Table(title="Out of memory", columns=("arm", "where, and what was done"), rows=rows[:MOST_ROWS],
                 note=f"The first {MOST_ROWS} of {len(rows)}." if len(rows) > MOST_ROWS else "")  # fmt: skip


def speed_table(study: BatchStudy) -> Table:
    """Set rates while training side by side."""
    columns = ("arm", "seeds", "steps/s", "samples/s", "95 % interval", "real tokens/s", "padded tokens/s",
               "real share")  # fmt: skip
    rows = []
    for arm in study.arms:
        cells = [arm.name, str(len(arm.measures)), _cell(arm, "steps_per_s", 3), _cell(arm, "samples_per_s", 1)]
        cells += [_span(arm, "samples_per_s", 1), _cell(arm, "tokens_per_s", 0), _cell(arm, "padded_tokens_per_s", 0)]
        rows.append([*cells, _cell(arm, "padding_efficiency", 3)])
    note = "While training, without the first logged line, which warms up. Interval: Student's t over seeds."
    numeric = frozenset(columns[1:]) - {"95 % interval"}
    return Table(title="Speed", columns=columns, rows=rows, note=note, numeric=numeric)


def time_table(study: BatchStudy) -> Table:
    """Say what the minutes of a run went into."""
    columns = ("arm", "data", "train", "evaluation", "checkpoint", "rest", "total", "95 % interval")
    rows = [
        [arm.name, *(_cell(arm, key, 2) for key in _TIME), _span(arm, "total_min", 2)] for arm in study.arms
    ]  # fmt: skip
    note = (
        "Minutes of a run, mean over seeds. Data: waiting for batches. Evaluation: with the final one. Rest: loading "
        "data and model, and what was lost with a killed process."
    )
    return Table(title="Time", columns=columns, rows=rows, note=note, numeric=frozenset(columns[1:7]))


def score_table(study: BatchStudy) -> Table:
    """Set scores with their intervals side by side."""
    what = words(study.leaf)
    columns = ("arm", f"final {what}", "95 % interval of final", f"best {what}", "95 % interval of best",
               f"test {what}", "95 % interval of test")  # fmt: skip
    rows = []
    for arm in study.arms:
        rows.append([arm.name, *(cell for key in _SCORE for cell in (_cell(arm, key, 3), _span(arm, key, 3)))])
    note = (
        "Final and best: on validation while training, as the task watches it; test: of the best weights. Intervals: "
        "over the items or over the seeds, whichever is wider."
    )
    numeric = frozenset(column for column in columns[1:] if not column.startswith("95"))
    return Table(title="Score", columns=columns, rows=rows, note=note, numeric=numeric)


def price_table(study: BatchStudy) -> Table:
    """Say how soon and how cheaply the scores came."""
    columns = ("arm", f"minutes to {SHARE:.0%}", f"steps to {SHARE:.0%}", "gain per minute", "95 % interval of gain",
               "best score per GB")  # fmt: skip
    rows = []
    for arm in study.arms:
        cells = [arm.name, *(_reached(study, arm, key, digits) for key, digits in _TO_TARGET.items())]
        per_gb = "-" if lower_is_better(study.leaf) else _cell(arm, "score_per_gb", 4)
        cells += [_cell(arm, "gain_per_min", 4), _span(arm, "gain_per_min", 4), per_gb]
        rows.append(cells)
    numeric = frozenset(columns[1:]) - {"95 % interval of gain"}
    return Table(title="Score against cost", columns=columns, rows=rows, note=_price_note(study), numeric=numeric)


def batch_csv(studies: Sequence[BatchStudy]) -> str:
    """Return one row for each arm, means over seeds with their 95 % intervals, then one for each run.

    An empty cell does not apply; what was not measured, or a score that was not reached, is said to be so.
    """
    head = ["row", "model", "dataset", "global_batch", "arm", "micro_batch", "metric", "seeds", "run", "seed", "status"]
    columns = [*head, "num_oom", "oom_shapes"]
    columns += [name for key in QUANTITIES for name in (key, f"{key}_low", f"{key}_high")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for study in studies:
        for arm in study.arms:
            writer.writerow(_arm_row(study, arm))
        for arm in study.arms:
            writer.writerows(_run_row(study, arm, run) for run in arm.group.runs)
    return text.getvalue()


def _head(study: BatchStudy, arm: Arm) -> list[object]:
    return [study.model, study.dataset, study.global_batch, arm.name, _or_not(arm.micro_batch), study.leaf]


def _arm_row(study: BatchStudy, arm: Arm) -> list[object]:
    cells: list[object] = ["arm", *_head(study, arm), len(arm.measures), "", "", "", _or_not(arm.num_oom)]
    cells.append(" | ".join(arm.shapes))
    for key in QUANTITIES:
        low, high = arm.interval(key) or ("", "")
        cells += [(key in _TO_TARGET and _shortfall(study, arm)) or _value(study, key, arm.mean(key)), low, high]
    return cells


def _run_row(study: BatchStudy, arm: Arm, run: Run) -> list[object]:
    found = next((one for own, one in zip(arm.group.done, arm.measures, strict=True) if own is run), {})
    events = events_of(run)
    cells: list[object] = ["run", *_head(study, arm), "", run.name, run.seed, run.status]
    cells += [len(events) if run.result else NOT_MEASURED, " | ".join(shape_words(event) for event in events)]
    never = bool(found) and study.target is not None and found.get("steps_to_target") is None
    for key in QUANTITIES:
        cells += ["not reached" if never and key in _TO_TARGET else _value(study, key, found.get(key)), "", ""]
    return cells


def _or_not(value: float | None) -> object:
    return NOT_MEASURED if value is None else int(value) if float(value).is_integer() else value


def _value(study: BatchStudy, key: str, value: float | None) -> object:
    """Empty for a loss per GB: a quantity that is better the smaller it is has no such ratio."""
    return "" if key == "score_per_gb" and lower_is_better(study.leaf) else _or_not(value)


def _cell(arm: Arm, key: str, digits: int) -> str:
    value = arm.mean(key)
    if value is None:
        return NOT_MEASURED
    return f"{value:,.0f}" if digits == 0 else number(value, digits)


def _span(arm: Arm, key: str, digits: int) -> str:
    span = arm.interval(key)
    return "-" if span is None else f"{number(span[0], digits)} to {number(span[1], digits)}"


def _reached(study: BatchStudy, arm: Arm, key: str, digits: int) -> str:
    """The mean where every seed got there, else how many did."""
    return _shortfall(study, arm) or _cell(arm, key, digits)


def _shortfall(study: BatchStudy, arm: Arm) -> str:
    """How many seeds reached the target, empty where all did or none is known."""
    steps, total = len(arm.values("steps_to_target")), len(arm.measures)
    return f"reached by {steps} of {total} seeds" if study.target is not None and steps < total else ""


def _price_note(study: BatchStudy) -> str:
    what = words(study.leaf)
    target = f" ({number(study.target)})" if study.target is not None else ""
    start = (
        f"the untrained {what} ({number(study.untrained)}) to that of the best weights on all of validation"
        if study.untrained is not None
        else "the first evaluation to the best one, as the untrained model was not measured"
    )
    least = lower_is_better(study.leaf)
    ratio = f"A {what} per GB says nothing." if least else "Best per GB of peak allocated memory."
    return (
        f"{SHARE:.0%}: the first evaluation that reached {target_words(study)}{target}, on a clock that starts with "
        f"training. Gain per minute{' (how much it fell)' if least else ''}: from {start}, over the minutes until the "
        f"best evaluation. {ratio}"
    )
