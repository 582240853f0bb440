"""Whose a wrong value is, and the command that runs what a phase would inherit from."""

import pytest

from rtx_lab.sweep.typed import command_of_parents, name_origins

RANKS = [(f"model.bilinear_rank={rank}", "model.d_model=16", "dataset=gsm8k") for rank in (8, 32)]
TOO_HIGH = "model.bilinear_rank must be at most model.d_model = 16, got 32"


def _origins(problem, where, points, *typed):
    (told,) = name_origins({problem: where}, points, set(typed), "rank")
    return told.removeprefix(problem)


def test_a_value_of_the_grid_is_told_with_what_replaces_it():
    assert _origins(TOO_HIGH, RANKS[1:], RANKS, "model.d_model", "dataset") == (
        "; model.bilinear_rank=32 comes from the grid of phase=rank; replace the grid with model.bilinear_rank=VALUES"
    )


def test_what_the_user_typed_is_the_users_own():
    assert _origins(TOO_HIGH, RANKS[1:], RANKS, "model.d_model", "model.bilinear_rank", "dataset") == ""


def test_a_key_that_does_not_exist_cannot_be_replaced():
    points = [("model.fixed_steps=4",)]
    told = _origins("unknown key `model.fixed_steps`: did you mean `model.x`?", points, points)
    assert told == " model.fixed_steps=4 comes from the grid of phase=rank"


@pytest.mark.parametrize(("guilty", "told"), [(["a"], True), (["a", "b"], False)])
def test_an_option_is_told_where_another_option_has_no_such_problem(guilty, told):
    points = [(f"model={name}", "dataset=gsm8k") for name in ("a", "b")]
    where = [point for point in points if point[0].removeprefix("model=") in guilty]
    found = _origins("unknown key `model.halting`", where, points, "model.halting")
    assert ("model=a comes from the grid of phase=rank; replace the grid with model=VALUES" in found) is told


def test_a_likeness_is_no_culprit():
    points = [("model.num_slots=64",)]
    assert _origins("unknown key `model.num_slot`: did you mean `model.num_slots`?", points, points) == ""
    longer = "model.num_slots_more must be positive"
    assert _origins(longer, points, points) == ""


def test_the_command_of_the_parents_has_the_users_overrides():
    typed = (
        *("phase=rank", "model=bilinear_tiny", "model.num_slots=8", "hardware=cpu", "plan=true", "run_anyway=true"),
        *("+labels.a=b", "seed=0,1", "dataset.rows={a: 3}", "hydra.sweep.dir=else where", "hydra.mode=MULTIRUN"),
    )
    assert command_of_parents("nd_ratio", "gsm8k", ("model.num_slots",), typed) == (
        "python train.py -m phase=nd_ratio dataset=gsm8k model=bilinear_tiny hardware=cpu seed=0,1 "
        "'dataset.rows={a: 3}' 'hydra.sweep.dir=else where'"
    )
    assert "dataset=gsm8k" not in command_of_parents("nd_ratio", "gsm8k", (), ("dataset=logiqa,gsm8k", "seed=1"))
