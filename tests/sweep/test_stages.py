"""What a campaign sets for its stages, and what stands above it."""

from types import SimpleNamespace

import pytest

from rtx_lab.core.errors import UsageError
from rtx_lab.sweep.study import Stage, entitle, stage_arguments

STAGES = ("first", "second")


def test_a_stage_takes_what_all_get_then_its_own_then_what_was_typed():
    campaign = {"all": ["dataset=a", "seed=1", "budget.steps=5"], "second": ["seed=2", "model=b"]}
    found = stage_arguments(STAGES, campaign, ["budget.steps=9", "+x=1"])
    assert found["first"] == ["dataset=a", "seed=1", "budget.steps=9", "+x=1"]
    assert found["second"] == ["dataset=a", "seed=2", "budget.steps=9", "model=b", "+x=1"]


def test_without_a_campaign_there_is_what_was_typed():
    assert stage_arguments(STAGES, {}, ["seed=3"]) == {"first": ["seed=3"], "second": ["seed=3"]}


def test_settings_of_no_stage_are_refused():
    with pytest.raises(UsageError, match=r"stage_overrides names third, and the stages are first, second"):
        stage_arguments(STAGES, {"third": ["seed=1"]}, [])


def titles(*points):
    """What the jobs of a stage of these overrides are called while they run."""
    run = SimpleNamespace(phase="kobart", labels={"budget.micro_batch=8": "05a"})
    settled = SimpleNamespace(run=run, config={}, directory="kobart/a-run")
    jobs = [SimpleNamespace(overrides=point, settled=settled, title="") for point in points]
    entitle(Stage("kobart", {}, None, [], jobs))  # type: ignore[arg-type]
    return [job.title for job in jobs]


def test_a_job_alone_in_its_stage_is_called_as_its_phase():
    assert titles(("dataset=dialogues", "budget.steps=80", "optim.lr=5e-3")) == ["kobart"]


def test_jobs_of_a_stage_are_called_by_what_differs():
    found = titles(("dataset=dialogues", "budget.micro_batch=8"), ("dataset=dialogues", "budget.micro_batch=16"))
    assert found == ["budget.micro_batch=8 (05a)", "budget.micro_batch=16"]
