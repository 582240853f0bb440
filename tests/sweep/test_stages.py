"""What a campaign sets for its stages, and what stands above it."""

import pytest

from rtx_lab.core.errors import UsageError
from rtx_lab.sweep.study import stage_arguments

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
