"""A whole study as a user types it: stages, inheritance, refusals of single jobs, exit codes, what is left on disk."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from tiny_runs import TINY

from rtx_lab.core.rundir import RunDir, find_runs
from rtx_lab.pricing import trace as tracing

SMALL = (
    *(value for value in TINY if not value.startswith(("model.num_slots", "model.bilinear_rank"))),
    *("model=bilinear_tiny", "dataset=reasoning", "hydra/launcher=basic", "budget.steps=4"),
)

PHASES = ("smoke", "nd_ratio", "all")
pytestmark = pytest.mark.usefixtures("no_report")


def _results(phase):
    return {run.path.name: run.read_result() for run in find_runs(Path("multirun") / phase)}


def test_a_phase_is_fed_by_the_one_before(command):
    child = ("-m", "phase=rank", *SMALL, "model.bilinear_rank=4", "model.connection=diag")
    code, text = command(*child)
    assert code == 2
    assert text.count("no finished run") == 1
    assert not Path("multirun").exists(), "nothing valid to run leaves nothing"

    advised = shlex.split(text.partition("run `")[2].partition("`")[0])
    assert advised[:4] == ["python", "train.py", "-m", "phase=nd_ratio"]
    code, text = command(*advised[2:], "model.num_slots=4,8")
    assert code == 0, text
    scores = {name: result["metrics"]["validation/accuracy"] for name, result in _results("nd_ratio").items()}
    assert len(scores) == 2

    code, text = command("-m", "phase=rank", *SMALL, "model.bilinear_rank=2,4", "model.connection=diag")
    assert code == 0, text
    results = _results("rank")
    assert len(results) == 2
    best = max(scores, key=lambda name: (scores[name], -int(name.split("-n")[1].split("-")[0])))
    expected = int(best.split("-n")[1].split("-")[0])
    for name, result in results.items():
        assert f"-n{expected}-" in name
        (parent,) = result["parents"]
        assert parent["chosen"] == {"model.num_slots": expected}
        assert parent["phase"] == "nd_ratio"
        assert len(parent["candidates"]) == 2

    code, text = command("phase=rank", *SMALL, "model.bilinear_rank=4", "model.connection=diag")
    assert code == 0, text
    assert "already done" in text, "a single run inherits the same value and is the same experiment"
    code, text = command("phase=rank", *SMALL, "model.bilinear_rank=4", "model.connection=diag", "model.num_slots=6")
    assert code == 0, text
    assert any("-n6-" in name for name in _results("rank")), "the command line wins over what is inherited"


@pytest.mark.slow
def test_the_connection_study_runs_its_five_phases(command):
    arguments = ("-m", "phase=connection_study", *SMALL, "model.connection=diag", "model.bilinear_rank=4")
    code, text = command(*arguments)
    assert code == 0, text
    jobs = {phase: len(_results(phase)) for phase in ("baselines", "nd_ratio", "rank", "dynamic", "final")}
    assert jobs == {"baselines": 1, "nd_ratio": 4, "rank": 1, "dynamic": 4, "final": 1}
    (final,) = _results("final").values()
    assert set(final["parents"][0]["chosen"]) == {
        *("model.num_slots", "model.bilinear_rank", "model.convergence_threshold", "model.fixed_steps")
    }
    study = json.loads(Path("multirun/connection_study/study.json").read_text())
    assert len(study["jobs"]) == 11
    assert Path("multirun/connection_study/report/report.md").read_text().startswith("# ")
    before = {path: path.stat().st_mtime_ns for path in Path("multirun").rglob("result.json")}
    code, text = command(*arguments)
    assert code == 0, text
    assert before == {path: path.stat().st_mtime_ns for path in Path("multirun").rglob("result.json")}


def test_an_early_failure_shows_in_the_exit_code_of_a_study(command):
    arguments = ("hydra.sweeper.stages=[smoke,main]", *SMALL, "model.bilinear_rank=4", "model.num_slots=4")
    assert command("-m", "phase=smoke", *arguments[1:])[0] == 0
    (first,) = find_runs(Path("multirun/smoke"))
    shutil.rmtree(first.path)
    first.path.write_text("")
    code, text = command("-m", "phase=main", *arguments)
    assert code == 4, text
    assert [result["status"] for result in _results("main").values()] == ["done"], "the next phase runs all the same"


def test_a_key_that_one_stage_does_not_know_is_no_label(command):
    code, text = command("-m", "phase=dynamic", "inherit=null", "model=transformer_baseline", "plan=true")
    assert code == 2
    assert "unknown key `model.fixed_steps`" in text
    assert "labels." not in text


def test_a_sequence_of_phases_is_no_single_run(command):
    code, text = command("phase=connection_study")
    assert code == 2
    assert "python train.py -m phase=connection_study" in text
    assert not Path("multirun").exists()


def test_another_sweeper_does_not_run_what_must_inherit(command):
    code, text = command("-m", "phase=rank", "hydra/sweeper=basic", *SMALL)
    assert code == 2, text
    assert "this phase needs the study sweeper" in text
    assert not Path("multirun").exists()


def test_the_plan_of_a_study_shows_what_later_phases_may_inherit(command):
    code, text = command(
        "-m", "phase=connection_study", *SMALL, "model.connection=diag", "model.bilinear_rank=4", "plan=true"
    )
    assert code == 0, text
    assert "largest of 4" in text
    assert "largest of 16" in text
    assert "11 jobs" in text
    assert "counted with those that need the most memory" in " ".join(text.split())
    assert not Path("multirun").exists()


def test_a_narrow_terminal_gets_tables_that_fit(command, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    code, text = command("-m", "model.num_slots=4,8", *SMALL, "model.bilinear_rank=4", "plan=true")
    assert code == 0, text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= 100
    assert "largest: model.num_slots=8: weights" in plain
    assert "fits" in plain
    assert "scoring holds" not in plain
    _, text = command("-m", *SMALL, "budget.steps=0", "plan=true", "budget.eval_batch=64")
    assert "; scoring holds" in " ".join(text.split())


def test_a_plan_counts_what_is_left_out_and_sums_every_phase(command):
    arguments = ("-m", "phase=main", "hydra.sweeper.stages=[smoke,nd_ratio]", *SMALL, "model.bilinear_rank=8")
    card = ("hardware.memory_gb=1.2", "model.num_slots=8,1024", "plan=true")
    code, text = command(*arguments, *card)
    assert code == 0, text
    plain = " ".join(text.replace("│", " ").split())
    assert "5 to run, 1 left out (does not fit): " in plain
    assert "Not in them: starting a job" in plain
    smoke, nd_ratio, everything = (re.search(rf"{name} ([\d.]+ )+", plain)[0].split() for name in PHASES)
    assert (smoke[1:4], nd_ratio[1:4], everything[1:4]) == (["2", "2", "0"], ["4", "3", "1"], ["6", "5", "1"])
    for of_smoke, of_ratio, total in zip(smoke[4:], nd_ratio[4:], everything[4:], strict=True):
        assert float(total) == pytest.approx(float(of_smoke) + float(of_ratio), rel=0.1)


def test_what_is_done_is_not_traced_again(command, monkeypatch, tmp_path):
    monkeypatch.setenv("RTX_LAB_CACHE", str(tmp_path / "cache"))
    for kept in ("_traces", "_unkept"):
        monkeypatch.setattr(tracing, kept, {})
    arguments = ("-m", "seed=0,1", *SMALL, "model.bilinear_rank=4", "model.num_slots=4")
    code, text = command(*arguments, "plan=true")
    assert code == 0, text
    assert not list(tmp_path.glob("cache/traces")), "a plan leaves nothing"
    code, text = command(*arguments)
    assert code == 0, text
    tracing._traces.clear()
    monkeypatch.setattr(tracing, "_trace", lambda *_: pytest.fail("it was traced again"))
    code, text = command(*arguments)
    assert code == 0, text
    assert "0 to run, 2 done" in text


def test_a_value_of_the_phase_that_cannot_be_is_told_as_the_phases(command, tmp_path):
    code, text = command("-m", "phase=rank", *SMALL, "model.connection=diag")
    assert code == 2
    for rank in (32, 64):
        assert (
            f"got {rank}; model.bilinear_rank={rank} comes from the grid of phase=rank; "
            "replace the grid with model.bilinear_rank=VALUES"
        ) in text
    code, text = command("-m", "phase=dynamic", *SMALL, "model.bilinear_rank=4", "model.max_reasoning_steps=2")
    assert code == 2
    assert "model.fixed_steps=4 comes from the grid of phase=dynamic" in text
    assert list(tmp_path.iterdir()) == []


def test_a_done_job_is_not_refused_for_its_price(command):
    arguments = ("-m", "seed=0,1", *SMALL, "model.bilinear_rank=4", "model.num_slots=4")
    assert command(*arguments)[0] == 0
    code, text = command(*arguments, "hardware.memory_gb=0.001")
    assert code == 0, text
    assert "0 to run, 2 done" in text


def test_a_job_without_data_is_refused_alone(command, tmp_path, monkeypatch):
    monkeypatch.setenv("RTX_LAB_DATA", str(tmp_path / "nothing"))
    own = tuple(value for value in TINY if not value.startswith("dataset."))
    arguments = ("-m", "dataset=reasoning,logiqa", *own, "hydra/launcher=basic", "budget.steps=2")
    code, text = command(*arguments, "dataset.num_train=64")
    assert code == 2, "a key that one of the sets does not know is a mistake of the command"
    assert "num_train" in text
    code, text = command(*arguments, "budget.eval_batch=512")
    assert code == 4, text
    results = _results("main")
    assert sorted(result["status"] for result in results.values()) == ["done", "refused"]
    refused = next(result for result in results.values() if result["status"] == "refused")
    assert refused["class"] == "input"
    assert "RTX_LAB_" in refused["reason"], "it says where to put what is missing"
    assert refused["reason"][:40] in text.replace("\n", "")


def test_a_job_that_does_not_fit_is_refused_alone_or_left_out(command):
    card = ("hardware.memory_gb=1.2", "model.connection=dense", "model.bilinear_rank=8", *SMALL)
    slots = "model.num_slots=8,1024"
    code, text = command("-m", slots, *card)
    assert code == 4, text
    assert "refused: price" in text
    results = _results("main")
    assert sorted(result["status"] for result in results.values()) == ["done", "refused"]
    assert next(r for r in results.values() if r["status"] == "refused")["class"] == "price"
    code, text = command("-m", "model.num_slots=1024", *card)
    assert code == 2
    assert "model.connection=diag" in text
    code, text = command("-m", slots, *card, "hydra.sweeper.where_it_fits=['model.connection=dense']")
    assert code == 0, text
    assert "left out" in text


def test_the_dense_large_model_is_refused_on_a_card_of_24_gb(command):
    code, text = command(
        "model=bilinear_large", "model.connection=dense", "hardware=rtx4090", "dataset=gsm8k", "plan=true"
    )
    assert code == 0, text
    assert "4,3" in text
    assert "it fits with" in " ".join(text.split()), "a plan says what would make it fit"
    code, text = command("-m", "model=bilinear_large", "model.connection=dense", "hardware=rtx4090", "dataset=gsm8k")
    assert code == 2
    assert "69.3 GB" in text
    assert "model.connection=diag" in text
    assert not Path("multirun").exists()


def test_what_is_planned_is_what_runs(command):
    code, text = command("-m", "model.num_slots=4,8", "seed=0,1", *SMALL, "model.bilinear_rank=4")
    assert code == 0, text
    for run in find_runs(Path("multirun/main")):
        plan, result = run.read_plan(), run.read_result()
        config = yaml.safe_load(run.config_path.read_text())
        assert plan["signature"] == result["signature"] == run.path.name[-12:]
        assert result["predicted_peak_memory_gb"] == plan["predicted_peak_memory_gb"] > 0
        assert result["peak_memory_gb"] > 0
        assert result["price"]["steps"] == 4
        assert config["plan"] is False


def test_a_study_names_every_job_with_class_and_reason(command):
    code, text = command(
        "-m", *SMALL, "model.bilinear_rank=4", "model.num_slots=4,8", "optim.lr=0.01,1e30", "optim.warmup_ratio=0"
    )
    assert code == 4, text
    statuses = sorted(result["status"] for result in _results("main").values())
    assert statuses == ["diverged", "diverged", "done", "done"]
    assert "not finite" in text
    assert RunDir(Path("multirun/main")).read_result() is None


def test_a_done_job_whose_data_have_changed_is_refused_alone(command):
    arguments = ("-m", "seed=0,1", *SMALL, "model.bilinear_rank=4", "model.num_slots=4")
    assert command(*arguments)[0] == 0
    changed, kept = find_runs(Path("multirun/main"))
    result = changed.read_result()
    result["digests"]["data"] = "0" * 64
    changed.result_path.write_text(json.dumps(result))
    before = kept.result_path.read_bytes()
    code, text = command(*arguments)
    assert code == 4, text
    assert "these inputs have changed since: data" in " ".join(text.split())
    assert changed.read_result() == result, "a finished result is never overwritten by a refusal"
    assert kept.result_path.read_bytes() == before


def test_a_job_whose_run_directory_cannot_be_written_is_refused_alone(command):
    arguments = ("-m", "seed=0,1", *SMALL, "model.bilinear_rank=4", "model.num_slots=4")
    code, text = command(*arguments[:1], "seed=0", *arguments[2:])
    assert code == 0, text
    (first,) = find_runs(Path("multirun/main"))
    shutil.rmtree(first.path)
    first.path.write_text("")
    code, text = command(*arguments)
    assert code == 4, text
    assert "directory: cannot write" in " ".join(text.split())
    assert [result["status"] for result in _results("main").values()] == ["done"]


def test_a_job_wanted_where_it_fits_is_left_out_where_its_parent_was(command):
    card = ("hardware.memory_gb=1.2", "model.bilinear_rank=8", *SMALL)
    code, text = command("-m", "phase=nd_ratio", *card, "model.num_slots=1024")
    assert code == 0, text
    code, text = command("-m", "phase=rank", *card)
    assert code == 0, text
    assert "left out" in text
    assert [result["status"] for result in _results("rank").values()] == ["done"]
