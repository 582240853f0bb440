"""Run directories of a batch study written by hand: arms of one global batch that differ in speed and memory."""

import random

from written_summaries import write_summariser

from rtx_lab.report.batch_advice import advise
from rtx_lab.report.build import compose, read_study

ARMS = {8: (300.0, 4.0), 16: (390.0, 6.5), 64: (450.0, 17.0)}
"""Micro-batch -> samples per second and peak memory in GB."""
LABELS = {
    f"budget.micro_batch={micro} at budget.global_batch=64": f"05{letter} ({micro} x {64 // micro})"
    for letter, micro in zip("abc", (8, 16, 64), strict=True)
}
STEPS, EVERY = 40, 8


def logged(micro, seed, *, speed, peak_gb, skill, on_gpu=True, tokens="characters"):
    """The lines of a run of 64 samples a step: eight steps a logged line, an evaluation behind each."""
    draw = random.Random(f"{micro}/{seed}")
    rate = speed * draw.uniform(0.99, 1.01)
    lines, time_s = [], 0.0
    for step in range(EVERY, STEPS + 1, EVERY):
        step_time_s = 64 / rate * (3.0 if step == EVERY else 1.0)  # the first steps warm up
        time_s += EVERY * step_time_s
        line = {"step": step, "loss": 4.0 - 2.5 * step / STEPS + draw.gauss(0, 0.03), "lr": 1e-5}
        line |= {"step_time_s": step_time_s, "samples_per_s": 64 / step_time_s, "data_wait": 0.02}
        line |= {"tokens_per_s": 180 * 64 / step_time_s, "padded_tokens_per_s": 210 * 64 / step_time_s}
        line |= {"memory_gb": 0.6 * peak_gb, "peak_memory_gb": peak_gb * (0.8 + 0.2 * step / STEPS)}
        line |= {
            "reserved_gb": 1.1 * peak_gb if on_gpu else None,
            "peak_reserved_gb": 1.2 * peak_gb if on_gpu else None,
        }
        lines.append(line)
        time_s += 1.5
        score = skill * (1 - 0.7 ** (step / EVERY)) / (1 - 0.7**5) + draw.gauss(0, 0.002)
        key = f"validation/rouge_{tokens}"
        lines.append(
            {"step": step, key: score, f"{key}_low": score - 0.02, f"{key}_high": score + 0.02, "time_s": time_s}
        )
    return lines, time_s


def reserved(peak_gb, on_gpu, mean_key="mean_reserved_gb"):
    """What an allocator holds beyond its tensors; nothing on a CPU."""
    return {mean_key: 1.1 * peak_gb if on_gpu else None, "peak_reserved_gb": 1.2 * peak_gb if on_gpu else None}


def write_arm_run(
    root,
    micro,
    seed=0,
    *,
    speed=None,
    peak_gb=None,
    skill=0.32,
    on_gpu=True,
    change=None,
    result=None,
    phase=None,
    labels=LABELS,
):
    """Write one run of an arm; return its RunDir."""
    usual = ARMS.get(micro, (200.0, 5.0))
    speed, peak_gb = speed or usual[0], peak_gb or usual[1]
    lines, time_s = logged(micro, seed, speed=speed, peak_gb=peak_gb, skill=skill * 0.78, on_gpu=on_gpu)
    split = {"data": 0.02 * time_s, "train": 0.83 * time_s, "evaluation": 12.0, "checkpoint": 1.5}
    told = {"time_split_s": split, "time_s": sum(split.values()) + 9.0, "peak_memory_gb": peak_gb, "events": []}
    told |= {"mean_memory_gb": 0.6 * peak_gb, "num_processes": 1, "step_time_s": 64 / speed}
    told |= reserved(peak_gb, on_gpu)
    config = {"budget.micro_batch": micro, "budget.eval_batch": 2 * micro if isinstance(micro, int) else 64} | (
        change or {}
    )
    if not on_gpu:
        config |= {"hardware.device": "cpu", "hardware.name": "cpu", "hardware.precision": "fp32"}
    run = write_summariser(
        root, skill, seed=seed, change=config, result=told | (result or {}), salt=micro, phase=phase or "batch_study",
        labels=labels,
    )  # fmt: skip
    run.metrics_path.unlink()
    for line in lines:
        run.append_metrics(line)
    return run


def write_batch_study(root, *, seeds=(0, 1, 2), arms=tuple(ARMS), **more):
    """Write every arm with every seed; return the RunDirs."""
    return [write_arm_run(root, micro, seed, **more) for micro in arms for seed in seeds]


def write_untrained(root, skill=0.1):
    """Write the job without a step that measures the untrained score."""
    run = write_summariser(root, skill, change={"budget.steps": 0}, phase="batch_study")
    run.metrics_path.write_text("")
    return run


def out_of_memory(step=3, size=64):
    """What a run records when memory runs out."""
    told = {"micro_batch": size, "retried_with": size // 2, "shape": [size, 512, 128]}
    return {"event": "out_of_memory", "step": step, **told}


def judged(root):
    (one,) = read_study(root).batches
    return one


def advice(root):
    one = judged(root)
    return advise(one.study, one.scores, one.costs)


def tables(root):
    (part,) = (part for part in compose(read_study(root), "x", {}).sections if part.title == "Batch study")
    return {table.title: [dict(zip(table.columns, row, strict=True)) for row in table.rows] for table in part.tables}
