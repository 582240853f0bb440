import pytest

from rtx_lab.core.components import bind, check_component, locate
from rtx_lab.core.errors import UsageError

ADAMW = {"_target_": "rtx_lab.optim.adamw", "_partial_": True, "lr": 1e-3, "schedule": "cosine"}


@pytest.mark.parametrize(
    "target", ["os.system", "builtins.eval", "torch.load", "rtx_lab_evil.run", "rtx_lab.core.rundir.os.remove"]
)
def test_targets_outside_the_package_are_refused(target):
    with pytest.raises(UsageError, match="_target_"):
        locate(target)


def test_an_import_of_ours_is_not_a_target_of_ours():
    with pytest.raises(UsageError, match="not a function or class of rtx_lab"):
        locate("rtx_lab.core.rundir.Path")


def test_a_good_node_has_no_problems_and_binds():
    assert check_component("optim", ADAMW) == []
    assert bind(ADAMW).keywords == {"lr": 1e-3, "schedule": "cosine"}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("lrr", 1.0, "did you mean `optim.lr`?"),
        ("lr", "abc", "optim.lr must be a number or null, got 'abc'"),
        ("lr", True, "optim.lr must be a number or null, got True"),
        ("betas", 0.9, "optim.betas must be"),
        ("schedule", 3, "optim.schedule must be a text, got 3"),
    ],
)
def test_wrong_keys_and_types_are_named(key, value, words):
    (problem,) = check_component("optim", {**ADAMW, key: value})
    assert words in problem


def test_integers_pass_as_numbers_and_booleans_do_not_pass_as_integers():
    sizes = {"num_slots": True, "d_model": 16, "bilinear_rank": 4, "max_reasoning_steps": 2}
    model = {"_target_": "rtx_lab.models.connection_transformer.ConnectionTransformer", **sizes}
    assert check_component("model", model) == ["model.num_slots must be an integer, got True"]
    assert check_component("optim", {**ADAMW, "lr": 1}) == []


def test_an_argument_that_the_target_needs_is_missed():
    model = {"_target_": "rtx_lab.models.connection_transformer.ConnectionTransformer", "d_model": 16}
    assert check_component("model", model)[0] == "model.num_slots is missing: give it a value"


def test_a_section_without_target_says_how_to_choose():
    assert check_component("model", {}) == ["model names no _target_: choose an option of the group, as model=NAME"]
