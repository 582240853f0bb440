"""Latent memory: one line for each stage and control, paired by hand-checked numbers, missing arms shown as missing."""

import csv
import functools
import shutil

import pytest
from written_memory import first, flipped, record, write_arm, write_memory_study

from rtx_lab.core.rundir import write_json
from rtx_lab.report.build import compose, read_study, write_report
from rtx_lab.report.costs import flops
from rtx_lab.report.memory_figures import draw_memory
from rtx_lab.report.memory_records import by_number, by_place
from rtx_lab.report.memory_table import CSV, memory_texts
from rtx_lab.report.outcomes import damaged
from rtx_lab.scoring.comparisons import mcnemar

STAGES = ["base_eval", "weaver_sft", "weaver_eval", "prompt_tuning", "lora_sft", "trigger_grpo", "trigger_eval",
          "ltpo_eval"]  # fmt: skip


read_once = functools.cache(read_study)


def section(root):
    parts = compose(read_once(root), "study", {}).sections
    return next((part for part in parts if part.title.startswith("Latent memory")), None)


def rows_of(table):
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def arms(root):
    return rows_of(section(root).tables[0])


def csv_rows(root):
    rows = list(csv.DictReader(memory_texts(read_once(root).memories)[CSV].splitlines()))
    return {row["setting"]: row for row in rows}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("memory") / "multirun"
    write_memory_study(root)
    return root


def test_every_stage_and_control_is_one_line_in_order(study):
    assert list(arms(study)) == [
        "base (no latents)", "weaver (always)", "trained weaver (never inserted)", "random latents (same norm)",
        "random insertion (p = 0.2)", "random insertion (p = 0.5)", "random insertion (p = 0.8)", "prompt tuning",
        "LoRA fine-tuning", "trigger", "LTPO", "LTPO (no steps)", "LTPO (random direction)",
        "LTPO (best of candidates)",
    ]  # fmt: skip
    against = {name: row["against"] for name, row in arms(study).items()}
    assert against["weaver (always)"] == "base (no latents)"
    assert against["trigger"] == "weaver (always)"
    assert against["LTPO"] == "trigger"
    assert {against[name] for name in ("prompt tuning", "LoRA fine-tuning", "random latents (same norm)")} == {
        "weaver (always)"
    }
    assert against["LTPO (no steps)"] == against["LTPO (best of candidates)"] == "LTPO"


def test_the_paired_numbers_are_those_counted_by_hand(study):
    row = arms(study)["weaver (always)"]
    assert row["accuracy"].startswith("0.600 [0.502, 0.691]")
    assert (row["right to wrong"], row["wrong to right"]) == ("2", "22")
    found = csv_rows(study)["weaver (always)"]
    assert float(found["difference"]) == pytest.approx(0.20)
    # 24 discordant items, 22 of them gained: 2 (1 + 24 + 276) / 2^24
    assert float(found["p"]) == pytest.approx(2 * (1 + 24 + 276) / 2**24)
    assert float(found["p"]) == pytest.approx(mcnemar(2, 22))
    trigger = csv_rows(study)["trigger"]
    assert float(trigger["p"]) == pytest.approx(2 * (1 + 6) / 2**6), "1 lost, 5 gained of 6 discordant"
    assert (float(trigger["right_to_wrong"]), float(trigger["wrong_to_right"])) == (1, 5)
    assert float(csv_rows(study)["LTPO"]["p"]) == 1


def test_p_is_corrected_with_all_tests_of_the_report(study):
    tests = {}
    for one in read_once(study).comparisons:
        if one.difference is not None:
            tests[frozenset((id(one.left), id(one.right)))] = one
    one, other = csv_rows(study)["weaver (always)"], csv_rows(study)["trained weaver (never inserted)"]
    assert float(one["p"]) == float(other["p"]) == min(test.difference.p for test in tests.values())
    assert float(one["p_holm"]) == pytest.approx(float(one["p"]) * len(tests))


def test_a_control_is_told_from_the_side_of_its_stage(study):
    texts = section(study).paragraphs
    noise = next(text for text in texts if "random latents" in text)
    assert noise.startswith("weaver (always) against random latents (same norm): +19.0 points [+10.2, +27.8]")
    assert "real; 21 turned right, 2 wrong of 100" in noise
    row = arms(study)["random latents (same norm)"]
    assert row["difference"] == "-19.0 [-27.8, -10.2]"
    assert (row["right to wrong"], row["wrong to right"]) == ("21", "2")
    (ltpo,) = (text for text in texts if text.startswith("LTPO against trigger:"))
    assert "+0.0 points" in ltpo
    assert "no difference can be told (the smallest that could have been shown:" in ltpo
    assert ltpo in compose(read_once(study), "study", {}).headlines


def test_the_trigger_is_held_against_the_random_rate_nearest_to_its_own(study):
    told = arms(study)
    assert told["trigger"]["inserted"] == "0.50"
    assert [told[f"random insertion (p = {share})"]["against"] for share in (0.2, 0.5, 0.8)] == ["-", "trigger", "-"]
    assert told["random insertion (p = 0.5)"]["difference"].startswith("-14.0")


def test_a_frozen_model_answers_the_same_without_latents(study, tmp_path):
    assert section(study).paragraphs[-1].endswith("the same 100 answers, word for word.")
    tiny = write_arm(tmp_path, "tiny_lm", first(40))
    write_arm(tmp_path, "base_eval", first(40), parent=tiny, insert="never")
    weaver = write_arm(tmp_path, "weaver_sft", first(60), parent=tiny)
    write_arm(tmp_path, "weaver_eval", first(43), parent=weaver, insert="never")
    assert "3 of 100 answers differ" in section(tmp_path).paragraphs[-1]


def test_what_answers_cost_and_what_ltpo_moved(study):
    row = arms(study)["weaver (always)"]
    # 54 strict: every tenth right answer lacks its mark, items 10, 20, ..., 60 of 2 to 61
    assert [row[key] for key in ("strict", "latents", "tokens", "seconds", "cut")] == [
        "0.540", "32.0", "20.0", "0.050", "0.130",
    ]  # fmt: skip
    moved = rows_of(section(study).tables[1])
    assert set(moved) == {name for name in arms(study) if name.startswith("LTPO")}
    assert [moved["LTPO"][key] for key in ("reward before", "after", "gain", "moved", "steps", "changed")] == [
        "1.000", "1.500", "+0.500", "0.200", "10.0", "0.060",
    ]  # fmt: skip
    assert [moved["LTPO (no steps)"][key] for key in ("gain", "moved", "changed")] == ["+0.000", "0.000", "0.000"]


def test_memory_is_told_by_stage_in_the_order_of_training(study):
    rows = rows_of(section(study).tables[2])
    assert next(iter(rows)) == "tiny_lm"
    assert list(rows).index("weaver_sft") < list(rows).index("weaver_eval") < list(rows).index("ltpo_eval")
    assert [rows["weaver_eval"][key] for key in ("runs done", "peak predicted (GB)", "peak measured (GB)")] == [
        "6 of 6", "1.25", "1.50",
    ]  # fmt: skip
    assert rows["weaver_eval"]["minutes, all runs"] == "12.0"


def test_where_the_trigger_fires_is_counted_decision_by_decision(tmp_path):
    records = [
        record(0, 1, decided=(0, 4, 8), inserted=(0, 8)),
        record(1, 0, decided=(0, 19), inserted=(19,)),
        record(2, 1, decided=(), inserted=()),
    ]
    write_arm(tmp_path, "trigger_eval", (), insert="trigger", records=records)
    (line,) = (one for one in read_once(tmp_path).memories[0].lines if one.arm.kind == "trigger")
    assert by_number(line.answered) == {0: (2, 1), 1: (2, 1), 2: (1, 1)}
    assert by_place(line.answered) == {1: (1, 0), 2: (1, 1), 4: (1, 1)}, "fifths of 20 tokens, not the prompt's end"
    assert line.rate == pytest.approx(3 / 5)


def test_arms_that_did_not_run_are_shown_as_missing(tmp_path):
    root = tmp_path / "multirun"
    write_memory_study(root, without=("ltpo_eval",))
    for run in read_study(root).runs:
        task = run.config["task"]
        if run.phase.startswith("weaver") and (task["insert"], task["latents"]) == ("always", "woven"):
            shutil.rmtree(run.path)
    write_json(root / "memgen_gsm8k" / "study.json", {"phase": "memgen_gsm8k", "stages": STAGES, "jobs": []})
    told = arms(root)
    for name in ("weaver (always)", "LTPO", "LTPO (no steps)", "LTPO (random direction)", "LTPO (best of candidates)"):
        assert told[name]["accuracy"] == "missing: not run"
        assert {told[name][key] for key in ("strict", "difference", "p", "inserted", "seconds")} == {"-"}
    assert told["trigger"]["against"] == "weaver (always) (missing)"
    assert told["trigger"]["difference"] == told["trigger"]["p"] == told["trigger"]["right to wrong"] == "-"
    texts = section(root).paragraphs
    assert "trigger against weaver (always): cannot be told, weaver (always) is missing: not run." in texts
    assert not any("points" in text for text in texts if "LTPO" in text or "weaver (always)" in text)


def test_a_failed_arm_is_missing_and_a_failed_seed_is_counted(tmp_path):
    write_arm(tmp_path, "base_eval", first(40), insert="never")
    write_arm(tmp_path, "base_eval", (), insert="never", seed=1, status="out_of_memory")
    write_arm(tmp_path, "weaver_eval", (), insert="always", status="out_of_memory")
    told = arms(tmp_path)
    assert told["weaver (always)"]["accuracy"] == "missing: out_of_memory"
    assert told["base (no latents)"]["seeds"] == "1 of 2"
    assert csv_rows(tmp_path)["weaver (always)"]["problem"] == "missing: out_of_memory"
    assert csv_rows(tmp_path)["weaver (always)"]["accuracy"] == ""


def test_seeds_of_one_chain_are_replicates_and_turn_by_seed(tmp_path):
    for seed, gained in ((0, 10), (1, 13)):
        tiny = write_arm(tmp_path, "tiny_lm", first(40), seed=seed)
        write_arm(tmp_path, "base_eval", first(40), parent=tiny, insert="never", seed=seed)
        weaver = write_arm(tmp_path, "weaver_sft", first(50), parent=tiny, seed=seed)
        answers = flipped(first(40), lost=2, gained=gained)
        write_arm(tmp_path, "weaver_eval", answers, parent=weaver, insert="always", seed=seed)
    row = arms(tmp_path)["weaver (always)"]
    assert (row["seeds"], row["right to wrong"], row["wrong to right"]) == ("2", "2", "11.5")
    assert csv_rows(tmp_path)["weaver (always)"]["weights"] == "tiny_lm > weaver_sft"
    assert section(tmp_path).paragraphs[0].endswith("11.5 turned right, 2.0 wrong of 100; 2 seeds a side.")


def test_two_weavers_are_two_chains_and_each_meets_its_own_trigger(tmp_path):
    tiny = write_arm(tmp_path, "tiny_lm", first(40))
    write_arm(tmp_path, "base_eval", first(40), parent=tiny, insert="never")
    for rate, count in ((0.001, 50), (0.01, 60)):
        weaver = write_arm(tmp_path, "weaver_sft", first(count), parent=tiny, change={"optim.lr": rate})
        write_arm(tmp_path, "weaver_eval", first(count), parent=weaver, insert="always")
        trigger = write_arm(tmp_path, "trigger_grpo", first(count + 5), parent=weaver)
        write_arm(tmp_path, "trigger_eval", first(count + 5), parent=trigger, insert="trigger")
    told = arms(tmp_path)
    pairs = {name: row for name, row in told.items() if name.startswith("trigger")}
    assert len(pairs) == 2
    assert all(row["difference"].startswith("+5.0") for row in pairs.values())
    assert all(name.rpartition(" ")[2] != "weaver_sft" for name in pairs)
    assert {row["against"] for row in pairs.values()} == {name for name in told if name.startswith("weaver")}


def test_a_parent_that_is_gone_leaves_the_run_as_it_was(tmp_path):
    for seed in (0, 1):
        weaver = write_arm(tmp_path, "weaver_sft", first(50), seed=seed)
        write_arm(tmp_path, "weaver_eval", first(50), parent=weaver, insert="always", seed=seed)
        shutil.rmtree(weaver.path)
    assert [row["seeds"] for name, row in arms(tmp_path).items() if name.startswith("weaver")] == ["1", "1"]


def test_damaged_answers_break_nothing(tmp_path):
    odd = [record(item, 1, decided=(0,), inserted=()) for item in range(10)]
    odd[0] |= {"decided_at": "0,3", "inserted_at": None, "num_tokens": 0}
    odd[1] |= {"decided_at": [None, "x"], "ltpo_first": "high", "prediction": None}
    trigger = write_arm(tmp_path, "trigger_eval", first(10, 10), insert="trigger")
    trigger.write_predictions(odd)
    run = write_arm(tmp_path, "weaver_eval", first(10), insert="always")
    (run.path / "predictions.jsonl").unlink()
    told = arms(tmp_path)
    assert (told["trigger"]["accuracy"][:5], told["trigger"]["difference"]) == ("1.000", "-")
    assert any("has no predictions" in text for text in section(tmp_path).paragraphs)


def test_other_studies_have_no_such_section(tmp_path):
    from written_runs import answers, write_run

    write_run(tmp_path, answers(60))
    assert section(tmp_path) is None
    assert memory_texts(read_once(tmp_path).memories) == {}


def test_evaluations_are_no_damaged_runs_and_cost_no_training(tmp_path):
    write_memory_study(tmp_path)
    evaluated = [run for run in read_study(tmp_path).runs if run.config["budget"]["steps"] == 0]
    for run in evaluated:
        (run.path / "metrics.jsonl").unlink(missing_ok=True)
    assert len(evaluated) > 8
    assert damaged(evaluated) == []
    assert not any(flops(run) for run in evaluated)


def test_drawn_again_the_pictures_are_the_same_bytes(study, tmp_path):
    for place in ("one", "two"):
        (figures,) = draw_memory(read_once(study).memories, tmp_path / place).values()
        assert [figure.name for figure in figures] == ["memory_accuracy", "trigger"]
    names = sorted(path.name for path in (tmp_path / "one" / "figures").iterdir())
    assert names == ["memory_accuracy.png", "memory_accuracy.svg", "trigger.png", "trigger.svg"]
    for name in names:
        assert (tmp_path / "one" / "figures" / name).read_bytes() == (tmp_path / "two" / "figures" / name).read_bytes()
    assert "1.00 at 0, 1.00 at 1, 0.00 at 2" in figures[1].alt


@pytest.mark.slow
def test_the_campaign_s_report_holds_all_and_is_the_same_bytes_again(tmp_path):
    root = tmp_path / "multirun"
    write_memory_study(root)
    jobs = sorted(f"{path.parent.parent.name}/{path.parent.name}" for path in root.glob("*/*/config.yaml"))
    write_json(root / "memgen_gsm8k" / "study.json", {"phase": "memgen_gsm8k", "stages": STAGES, "jobs": jobs})
    folder = write_report(root / "memgen_gsm8k")
    first_time = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write_report(root / "memgen_gsm8k")
    assert first_time == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    text, page = (folder / "report.md").read_text(), (folder / "report.html").read_text()
    assert "](figures/trigger.png)" in text
    assert "| LTPO (best of candidates) |" in text
    assert "Stages and controls" in page
    assert (folder / CSV).is_file()
    assert (folder / "tables" / "stages_and_controls.tex").is_file()
