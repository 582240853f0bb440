"""The parent called `pretrain`: which phase it is for a model, and the stage that a campaign puts first."""

import pytest
import yaml
from omegaconf import OmegaConf

from rtx_lab.core.errors import UsageError
from rtx_lab.sweep.pretraining import rules_for

RULE = {"from": "pretrain", "checkpoint": "best"}
CHOICE = ("-m", "phase=chain", "model=memgen_tiny", "dataset=arithmetic", "hardware=cpu", "plan=true")


@pytest.fixture
def hydra_node(tmp_path):
    (tmp_path / "phase").mkdir()
    (tmp_path / "phase" / "tiny_lm.yaml").write_text("")
    return OmegaConf.create({"runtime": {"config_sources": [{"path": str(tmp_path), "schema": "file"}]}})


def test_the_parent_is_the_phase_that_the_model_names(hydra_node):
    (rule,) = rules_for(RULE, {"pretrain_phase": "tiny_lm"}, hydra_node)
    assert (rule.phase, rule.checkpoint) == ("tiny_lm", "best")


@pytest.mark.parametrize("model", [{}, {"pretrain_phase": None}])
def test_a_model_with_weights_of_its_own_inherits_nothing(hydra_node, model):
    other = {"from": "weaver_sft", "checkpoint": "best"}
    assert rules_for(RULE, model, hydra_node) == []
    assert [rule.phase for rule in rules_for([RULE, other], model, hydra_node)] == ["weaver_sft"]


def test_a_phase_that_does_not_exist_is_one_sentence(hydra_node):
    with pytest.raises(UsageError, match=r"^model.pretrain_phase=tiny_ml is no phase: did you mean tiny_lm\?$"):
        rules_for(RULE, {"pretrain_phase": "tiny_ml"}, hydra_node)
    assert rules_for({"from": "x", "checkpoint": "best"}, {"pretrain_phase": "tiny_ml"}, hydra_node)[0].phase == "x"


@pytest.fixture
def chain(command, tmp_path):
    """Call a campaign of two small phases that stand beside the project's own."""
    folder = tmp_path / "extra" / "phase"
    folder.mkdir(parents=True)
    task = {"_target_": "rtx_lab.tasks.answering.TuneTask", "_partial_": True, "insert": "never", "part": "base"}
    one = {"phase": "one", "inherit": RULE, "task": task, "budget": {"steps": 2}}
    two = {"phase": "two", "inherit": {"from": "one", "checkpoint": "best"}, "task": task, "budget": {"steps": 2}}

    def call(overrides, *more):
        campaign = {"phase": "chain", "hydra": {"sweeper": {"stages": ["one", "two"], "stage_overrides": overrides}}}
        for node in (one, two, campaign):
            text = "# @package _global_\n" + yaml.safe_dump(node)
            (folder / f"{node['phase']}.yaml").write_text(text)
        return command("--config-dir", str(folder.parent), *CHOICE, *more)

    return call


def test_a_campaign_trains_first_what_has_no_weights(chain):
    code, text = chain({"tiny_lm": ["budget.steps=3"]})
    assert code == 0, text
    assert "3 jobs on" in text
    assert text.count("after its parent") == 2, "what takes weights waits for the stage before"
    assert "tiny_lm" in text


def test_weights_of_its_own_need_no_stage_in_front(chain):
    code, text = chain({}, "model.pretrain_phase=null")
    assert code == 0, text
    assert "2 jobs on" in text
    assert "tiny_lm" not in text
    assert text.count("after its parent") == 1


def test_settings_of_no_stage_are_refused_with_the_stage_in_front_among_the_known(chain):
    code, text = chain({"tiny_ml": ["seed=5"]})
    assert code == 2
    assert "stage_overrides names tiny_ml, and the stages are tiny_lm, one, two" in text


def test_a_phase_that_nobody_has_is_told_once(chain):
    code, text = chain({}, "model.pretrain_phase=tiny_ml")
    assert code == 2
    assert text.count("model.pretrain_phase=tiny_ml is no phase: did you mean tiny_lm?") == 1
