"""What a later phase takes over from a batch study: the micro-batch that its report recommends, or by a metric."""

import json
import re
from pathlib import Path

import pytest
import yaml
from tiny_runs import TINY
from written_batch_study import write_arm_run, write_batch_study, write_untrained

from rtx_lab.core.errors import UsageError
from rtx_lab.core.rundir import find_runs
from rtx_lab.report.batch_winner import rank_arms
from rtx_lab.sweep.parents import choose, finished_runs, rules_of

SMALL = (
    *(value for value in TINY if not value.startswith("dataset.num_train")),
    *("model=bilinear_tiny", "dataset=reasoning", "dataset.num_train=256", "hydra/launcher=basic", "optim.lr=null"),
)
LATER = """# @package _global_
phase: later
inherit: {{from: batch_study, keys: [budget.micro_batch]{more}}}
optim: {{schedule: linear, min_lr_ratio: 0.0, warmup_ratio: 0.1}}
budget: {{global_batch: 64, epochs: 2}}
hydra: {{sweeper: {{params: {{seed: "0,1"}}}}}}
"""


def _rule(**more):
    return rules_of({"from": "batch_study", "keys": ["budget.micro_batch"], **more})[0]


def _chosen(root, rule=None, micro=16, **budget):
    """What a later run of the same model would take: it has a micro-batch, and its evaluation's batch, of its own."""
    path = next(path for path in sorted(root.rglob("config.yaml")))
    child = yaml.safe_load(path.read_text()) | {"phase": "later"}
    child["budget"] = child["budget"] | {"micro_batch": micro, "eval_batch": 2 * micro, **budget}
    return choose(rule or _rule(), child, (), finished_runs(root, "batch_study"))


@pytest.mark.parametrize("micro", [8, 16, 64])
def test_the_fastest_arm_that_is_not_worse_is_taken_whatever_the_child_has(tmp_path, micro):
    write_batch_study(tmp_path)
    write_untrained(tmp_path)
    choice = _chosen(tmp_path, micro=micro)
    assert choice.values == {"budget.micro_batch": 64}
    assert (choice.record["by"], choice.record["metric"]) == ("the report's recommendation", "samples_per_s")
    told = [(row["values"]["budget.micro_batch"], len(row["runs"])) for row in choice.record["candidates"]]
    assert told == [(64, 3), (16, 3), (8, 3)], "the recommended one first, the untrained run nowhere"
    speeds = [row["score"] for row in choice.record["candidates"]]
    assert speeds == pytest.approx([450, 390, 300], rel=0.02)


def test_a_faster_arm_with_a_worse_score_is_not_taken(tmp_path):
    write_batch_study(tmp_path, arms=(8, 16))
    write_batch_study(tmp_path, arms=(64,), skill=0.2)
    assert _chosen(tmp_path).values == {"budget.micro_batch": 16}


def test_of_equally_fast_arms_the_leanest_is_taken(tmp_path):
    for seed, factor in enumerate((0.9, 1.0, 1.12)):
        write_arm_run(tmp_path, 8, seed, speed=300)
        write_arm_run(tmp_path, 64, seed, speed=303 * factor)
    assert _chosen(tmp_path).values == {"budget.micro_batch": 8}
    assert _chosen(tmp_path, _rule(metric="step_time_s", mode="min")).values == {"budget.micro_batch": 64}


def test_a_metric_that_the_rule_names_decides(tmp_path):
    write_batch_study(tmp_path)
    write_untrained(tmp_path)
    choice = _chosen(tmp_path, _rule(metric="peak_memory_gb", mode="min"), epochs=20)
    assert choice.values == {"budget.micro_batch": 8}
    assert choice.record["metric"] == "peak_memory_gb"
    with pytest.raises(UsageError, match=re.escape("has no metric step_time: did you mean step_time_s?")):
        _chosen(tmp_path, _rule(metric="step_time"))


def test_without_a_speed_there_is_no_winner(tmp_path):
    write_batch_study(tmp_path, seeds=(0,))
    for run in find_runs(tmp_path):
        run.metrics_path.write_text("")
    with pytest.raises(UsageError, match=re.escape("measured its speed: give budget.micro_batch=... yourself")):
        _chosen(tmp_path)


def test_a_rank_over_other_datasets_needs_a_metric():
    with pytest.raises(UsageError, match=re.escape("name one, as {metric: step_time_s, mode: min}")):
        _rule(elsewhere="mean_rank")
    assert _rule(elsewhere="mean_rank", metric="step_time_s", mode="min").elsewhere


def test_the_order_of_the_arms_is_that_of_the_report(tmp_path):
    runs = write_batch_study(tmp_path)
    names = {run.path.name for run in runs}
    folder = tmp_path / "batch_study"
    assert [arm.micro_batch for arm in rank_arms(folder, names)] == [64, 16, 8]
    slower = {run.path.name for run in runs[:6]}
    assert [arm.micro_batch for arm in rank_arms(folder, slower)] == [16, 8], "of those that may be parents"
    assert rank_arms(folder, {"of another study"}) == []


@pytest.mark.slow
def test_a_later_phase_trains_with_the_recommended_micro_batch(command, tmp_path):
    (tmp_path / "own" / "phase").mkdir(parents=True)
    for name, more in (("later", ""), ("fastest", ", metric: step_time_s, mode: min")):
        text = LATER.format(more=more).replace("phase: later", f"phase: {name}")
        (tmp_path / "own" / "phase" / f"{name}.yaml").write_text(text)
    own = ("--config-dir", str(tmp_path / "own"))
    code, text = command("-m", *own, "phase=later", *SMALL)
    assert code == 2
    assert "no finished run of phase batch_study" in text

    code, text = command("-m", "phase=batch_study", *SMALL, "seed=0,1", "budget.epochs=4")
    assert code == 0, text
    report = Path("multirun/batch_study/report/batch_optimization_report.md").read_text()
    recommended = int(re.search(r"Recommended: .*\(budget\.micro_batch=(\d+)\)", report)[1])
    code, text = command("-m", *own, "phase=later", *SMALL)
    assert code == 0, text
    runs = list(find_runs(Path("multirun/later")))
    assert len(runs) == 2
    for run in runs:
        budget = yaml.safe_load(run.config_path.read_text())["budget"]
        assert (budget["micro_batch"], budget["eval_batch"]) == (recommended, 2 * recommended)
        (parent,) = run.read_result()["parents"]
        assert parent["chosen"] == {"budget.micro_batch": recommended}
        assert parent["by"] == "the report's recommendation"
        assert sorted(row["values"]["budget.micro_batch"] for row in parent["candidates"]) == [8, 16, 64]

    code, text = command(*own, "phase=later", *SMALL, "seed=0")
    assert code == 0, text
    assert "already done" in text, "a single run inherits the same value"
    code, text = command(*own, "phase=fastest", *SMALL)
    assert code == 0, text
    (run,) = find_runs(Path("multirun/fastest"))
    (parent,) = run.read_result()["parents"]
    fastest = min(parent["candidates"], key=lambda row: row["score"])
    assert parent["metric"] == "step_time_s"
    assert parent["chosen"] == fastest["values"]
    assert json.loads(run.plan_path.read_text())["parents"] == [parent]
