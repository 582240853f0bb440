import pytest
from written_runs import answers, write_run

from rtx_lab.report.groups import find_factors, group_runs, labels_of
from rtx_lab.report.runs import load_runs
from rtx_lab.scoring.intervals import mean_interval, wilson_interval

LABELS = {"model.num_slots=64": "4to1_compression", "model.fixed_steps=4": "no_dynamic_baseline"}


def read(root):
    runs = load_runs(root)
    labels = labels_of(runs)
    groups = group_runs(runs, labels)
    return groups, find_factors(groups, labels)


def test_seeds_are_replicates_and_nothing_unsigned_parts_them(tmp_path):
    for seed in (2, 0, 1):
        write_run(tmp_path, answers(60 + seed), seed=seed, hardware__num_workers=seed, labels={"a=1": str(seed)})
    (group,), factors = read(tmp_path)
    assert [run.seed for run in group.runs] == [0, 1, 2]
    assert group.label == "connection_transformer-diag-n64-d256-r32-reasoning"
    assert group.values("test/accuracy") == [0.5, 61 / 120, 62 / 120]
    assert (group.factors, factors, group.dataset) == ({}, [], "reasoning")


def test_families_are_equal_in_all_but_one_setting(tmp_path):
    for slots in (128, 64):
        for rank in (8, 16):
            write_run(tmp_path, [1], model__num_slots=slots, model__bilinear_rank=rank, labels=LABELS)
    groups, factors = read(tmp_path)
    assert [group.label for group in groups] == [
        "r=8, N=64 (4to1_compression)", "r=8, N=128", "r=16, N=64 (4to1_compression)", "r=16, N=128",
    ]  # fmt: skip
    assert [(factor.key, factor.title) for factor in factors] == [
        ("model.bilinear_rank", "rank r"),
        ("model.num_slots", "slots N (D = 256)"),
    ]
    shown = [[factors[1].text(group) for group in family] for family in factors[1].families]
    assert shown == [["64 (4to1_compression)", "128"]] * 2
    assert [group.settings["model.bilinear_rank"] for group in factors[1].families[0]] == [8, 8]


def test_fixed_steps_stand_beside_the_thresholds(tmp_path):
    for threshold in (0.1, 0.001):
        write_run(tmp_path, [1], model__convergence_threshold=threshold, labels=LABELS)
    write_run(tmp_path, [1], model__fixed_steps=4, labels=LABELS)
    _, (factor,) = read(tmp_path)
    texts = [factor.text(group) for group in factor.families[0]]
    assert texts == ["0.001", "0.1", "fixed 4 steps (no_dynamic_baseline)"]


def test_datasets_and_phases_part_families_and_are_no_factors(tmp_path):
    for phase, dataset in (("a", "gsm8k"), ("a", "logiqa"), ("b", "gsm8k")):
        for slots in (64, 128):
            target = {"_target_": f"rtx_lab.data.corpora.{dataset}"}
            write_run(tmp_path, [1], phase=phase, dataset=target, model__num_slots=slots)
    groups, factors = read(tmp_path)
    assert groups[0].label == "a, gsm8k, N=64"
    assert [factor.key for factor in factors] == ["model.num_slots"]
    assert [len(family) for family in factors[0].families] == [2, 2, 2]


def test_whole_models_are_one_factor(tmp_path):
    write_run(tmp_path, [1])
    write_run(tmp_path, [1], model__connection="dense")
    write_run(tmp_path, [1], model__d_model=512, model__num_slots=256, optim__lr=0.0002)
    write_run(
        tmp_path, [1], model={"_target_": "rtx_lab.models.transformer_baseline.TransformerBaseline", "d_model": 9}
    )
    groups, factors = read(tmp_path)
    assert [factor.key for factor in factors] == ["model.connection", "model"]
    assert len(factors[1].families[0]) == 4
    assert len({group.label for group in groups}) == 4
    assert groups[-1].label.startswith("transformer_baseline")


def test_labels_of_groups_are_never_shared(tmp_path):
    write_run(tmp_path, [1], budget__steps=20, optim__lr=0.1)
    write_run(tmp_path, [1], budget__steps=40, optim__lr=0.2)
    groups, factors = read(tmp_path)
    assert factors == []
    assert len({group.label for group in groups}) == 2


def test_an_interval_is_the_wider_of_items_and_seeds(tmp_path):
    for seed, right in enumerate((58, 60, 62)):
        write_run(tmp_path, answers(right), seed=seed)
    (group,), _ = read(tmp_path)
    assert group.interval("test/accuracy") == pytest.approx(wilson_interval(60, 120))
    assert group.interval("time_s") == (1800.0, 1800.0)
    for seed, right in enumerate((20, 100), start=3):
        write_run(tmp_path, answers(right), seed=seed)
    (group,), _ = read(tmp_path)
    assert group.interval("test/accuracy") == pytest.approx(
        mean_interval([58 / 120, 0.5, 62 / 120, 20 / 120, 100 / 120])
    )


def test_only_finished_runs_count(tmp_path):
    write_run(tmp_path, answers(60), seed=0)
    write_run(tmp_path, answers(90), seed=1, result={"status": "diverged"})
    (group,), _ = read(tmp_path)
    assert (len(group.runs), len(group.done), group.mean("test/accuracy")) == (2, 1, 0.5)
    assert group.mean("absent") is group.interval("absent") is None
    assert group.interval("test/avg_reasoning_steps") == (3.0, 3.0)
