"""What a phase inherits: which runs count, which is chosen, and what is said where none or several do."""

import re

import pytest
import yaml

from rtx_lab.core.errors import UsageError
from rtx_lab.core.rundir import write_json, write_text
from rtx_lab.sweep.parents import choose, finished_runs, possible_values, rules_of


def _config(dataset="gsm8k", num_slots=64, rank=32, seed=0, phase="nd_ratio", **more):
    model = {"_target_": "rtx_lab.models.x.CT", "d_model": 256, "num_slots": num_slots, "bilinear_rank": rank}
    model |= {"connection": more.pop("connection", "diag")}
    budget = {"steps": more.pop("steps", 100)}
    data = {"_target_": f"rtx_lab.data.corpora.{dataset}"}
    return {"model": model, "dataset": data, "budget": budget, "seed": seed, "phase": phase, **more}


def _run(root, score, name=None, parameters=1000, status="done", **config):
    whole = _config(**config)
    folder = root / whole["phase"] / (name or f"{len(list(root.rglob('config.yaml'))):03d}")
    write_text(folder / "config.yaml", yaml.safe_dump(whole))
    result = {"status": status, "monitor": "validation/accuracy", "metrics": {"validation/accuracy": score}}
    result["metrics"]["test/accuracy"] = 1 - score  # selection must not look at it
    write_json(folder / "result.json", result | {"parameters": parameters})
    return folder


def _rule(**more):
    return rules_of({"from": "nd_ratio", "keys": ["model.num_slots"], **more})[0]


def _chosen(root, rule=None, free=(), **child):
    return choose(rule or _rule(), _config(**{"phase": "rank", **child}), free, finished_runs(root, "nd_ratio"))


def test_the_best_mean_over_seeds_on_validation_wins(tmp_path):
    for seed, (few, many) in enumerate([(0.5, 0.7), (0.6, 0.4), (0.55, 0.6)]):
        _run(tmp_path, few, num_slots=64, seed=seed)
        _run(tmp_path, many, num_slots=128, seed=seed)
    choice = _chosen(tmp_path)
    assert choice.values == {"model.num_slots": 128}
    assert choice.record["by"] == "mean over seeds"
    assert [len(candidate["runs"]) for candidate in choice.record["candidates"]] == [3, 3]
    assert choice.record["candidates"][0]["score"] == pytest.approx(1.7 / 3)


def test_a_tie_goes_to_fewer_parameters(tmp_path):
    _run(tmp_path, 0.6, num_slots=128, parameters=2000)
    _run(tmp_path, 0.6, num_slots=64, parameters=500)
    assert _chosen(tmp_path).values == {"model.num_slots": 64}


def test_the_smaller_metric_wins_where_the_rule_says_so(tmp_path):
    _run(tmp_path, 0.9, num_slots=128)
    _run(tmp_path, 0.2, num_slots=64)
    assert _chosen(tmp_path, _rule(mode="min")).values == {"model.num_slots": 64}


@pytest.mark.parametrize("other", [{"dataset": "logiqa"}, {"connection": "dense"}, {"status": "failed"}])
def test_runs_of_another_dataset_or_model_or_unfinished_do_not_count(tmp_path, other):
    _run(tmp_path, 0.9, num_slots=512, **other)
    _run(tmp_path, 0.2, num_slots=64)
    assert _chosen(tmp_path).values == {"model.num_slots": 64}


def test_what_the_child_sweeps_may_differ_from_the_parent(tmp_path):
    _run(tmp_path, 0.5, rank=32, num_slots=256)
    assert _chosen(tmp_path, free={"model.bilinear_rank"}, rank=8).values == {"model.num_slots": 256}
    with pytest.raises(UsageError, match="no finished run"):
        _chosen(tmp_path, rank=8)


def test_the_parent_most_alike_is_taken(tmp_path):
    _run(tmp_path, 0.9, num_slots=512, steps=10)
    _run(tmp_path, 0.2, num_slots=64, steps=100)
    assert _chosen(tmp_path, steps=100).values == {"model.num_slots": 64}
    assert _chosen(tmp_path, steps=10).values == {"model.num_slots": 512}


def test_several_budgets_and_none_of_them_the_childs_is_an_error_that_names_the_runs(tmp_path):
    _run(tmp_path, 0.9, name="a", steps=10)
    _run(tmp_path, 0.2, name="b", steps=20)
    with pytest.raises(UsageError, match=r"differ in more than the seed \(a, b\)"):
        _chosen(tmp_path, steps=100)


def test_none_is_an_error_that_names_the_command(tmp_path):
    with pytest.raises(UsageError, match=re.escape("`python train.py -m phase=nd_ratio dataset=gsm8k` first")):
        _chosen(tmp_path)
    typed = ("phase=rank", "dataset=gsm8k", "model.num_slots=8", "hardware=cpu", "plan=true")
    with pytest.raises(UsageError, match=re.escape("-m phase=nd_ratio dataset=gsm8k hardware=cpu` first")):
        choose(_rule(), _config(phase="rank"), (), [], typed)


def test_another_dataset_takes_the_best_mean_rank(tmp_path):
    scores = {64: (0.9, 0.1, 0.5), 128: (0.8, 0.3, 0.6), 256: (0.1, 0.2, 0.7)}  # ranks 1 3 3, 2 1 2, 3 2 1
    for slots, by_set in scores.items():
        for dataset, score in zip(("logiqa", "gsm8k", "strategyqa"), by_set, strict=True):
            _run(tmp_path, score, num_slots=slots, dataset=dataset)
    choice = _chosen(tmp_path, _rule(elsewhere="mean_rank"), dataset="sst2")
    assert choice.values == {"model.num_slots": 128}
    assert choice.record["by"] == "mean rank over gsm8k, logiqa, strategyqa"
    assert [candidate["score"] for candidate in choice.record["candidates"]] == pytest.approx([5 / 3, 2, 7 / 3])
    with pytest.raises(UsageError, match="no finished run"):
        _chosen(tmp_path, dataset="sst2")


def test_mean_rank_counts_from_the_best_end_and_only_what_every_dataset_holds(tmp_path):
    scores = {64: {"logiqa": 0.9, "gsm8k": 0.8}, 128: {"logiqa": 0.2, "gsm8k": 0.1}, 256: {"gsm8k": 0.5}}
    scores[512] = {"logiqa": 0.5, "gsm8k": 0.6}
    for slots, by_set in scores.items():
        for dataset, score in by_set.items():
            _run(tmp_path, score, num_slots=slots, dataset=dataset)
    for mode, best in (("max", 64), ("min", 128)):
        choice = _chosen(tmp_path, _rule(elsewhere="mean_rank", mode=mode), dataset="sst2")
        assert choice.values == {"model.num_slots": best}
        assert len(choice.record["candidates"]) == 3


def test_a_parent_equal_in_what_the_child_sweeps_goes_before_others(tmp_path):
    for rank, score in ((8, 0.2), (32, 0.9)):
        _run(tmp_path, score, rank=rank, num_slots=rank * 2)
    assert _chosen(tmp_path, free={"model.bilinear_rank"}, rank=8).values == {"model.num_slots": 16}


def test_the_last_checkpoint_is_the_newest(tmp_path):
    rule = rules_of({"from": "nd_ratio", "checkpoint": "last"})[0]
    folder = _run(tmp_path, 0.5) / "checkpoints"
    for step in (2, 10):
        (folder / f"step-{step:08d}").mkdir(parents=True)
    assert _chosen(tmp_path, rule).values == {"init_from": str(folder / "step-00000010")}


def test_weights_come_from_the_run_of_the_same_seed(tmp_path):
    rule = rules_of({"from": "nd_ratio", "checkpoint": "best"})[0]
    first, second = (_run(tmp_path, 0.5, seed=seed) for seed in (0, 1))
    assert _chosen(tmp_path, rule, seed=1).values == {"init_from": str(second)}
    with pytest.raises(UsageError, match=re.escape(f"choose with init_from=DIR of {first}, {second}")):
        _chosen(tmp_path, rule, seed=7)


def test_every_value_that_planned_parents_could_pass_on():
    configs = [_config(num_slots=n, seed=s) for n in (64, 128) for s in (0, 1)] + [
        _config(dataset="logiqa", num_slots=9)
    ]
    found = possible_values(_rule(), _config(phase="rank"), (), configs)
    assert found == [{"model.num_slots": 64}, {"model.num_slots": 128}]


def test_a_damaged_run_is_no_parent_and_a_damaged_config_is_named(tmp_path):
    _run(tmp_path, 0.2, num_slots=64)
    write_text(_run(tmp_path, 0.9, num_slots=512) / "result.json", '{"status": "do')
    assert _chosen(tmp_path).values == {"model.num_slots": 64}
    broken = _run(tmp_path, 0.9) / "config.yaml"
    write_text(broken, "{")
    with pytest.raises(UsageError, match=re.escape(str(broken))):
        _chosen(tmp_path)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ("nd_ratio", "must be a rule"),
        ({"from": "a", "key": ["x"]}, "did you mean `keys`?"),
        ({"from": "a"}, "names its phase and either keys or a checkpoint"),
        ({"from": "a", "keys": ["x"], "checkpoint": "best"}, "either keys or a checkpoint"),
        ({"keys": ["x"]}, "names its phase"),
        ({"from": "a", "checkpoint": "newest"}, "best, last"),
        ({"from": "a", "keys": ["x"], "mode": "up"}, "max, min"),
        ({"from": "a", "keys": ["x"], "elsewhere": "any"}, "mean_rank"),
    ],
)
def test_a_rule_that_is_none_is_refused(node, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        rules_of(node)


def test_no_rule_and_several_rules():
    assert rules_of(None) == []
    assert [rule.phase for rule in rules_of([{"from": "a", "keys": ["x"]}, {"from": "b", "checkpoint": "last"}])] == [
        "a",
        "b",
    ]
