"""Hydra's sweep grammar as a space to draw from."""

from types import SimpleNamespace

import optuna
import pytest

from rtx_lab.core.errors import UsageError
from rtx_lab.sweep.space import read_space

CONTEXT = SimpleNamespace(config_loader=None)


@pytest.mark.parametrize(
    ("typed", "low", "high", "more"),
    [
        ("interval(1e-4,1e-2)", 1e-4, 1e-2, {}),
        ("tag(log,interval(1e-4,1e-2))", 1e-4, 1e-2, {"log": True}),
        ("int(interval(1.0,5.0))", 1, 5, {"is_whole": True}),
        ("range(1,5)", 1, 4, {"is_whole": True, "step": 1}),
        ("range(0,10,4)", 0, 8, {"is_whole": True, "step": 4}),
        ("range(0,0.5,0.25)", 0, 0.25, {"is_whole": False, "step": 0.25}),
        ("choice(8,16,32)", 0, 0, {"choices": (8, 16, 32)}),
        ("8,16,8", 0, 0, {"choices": (8, 16)}),
        ("choice(adamw,adamw_8bit)", 0, 0, {"choices": ("adamw", "adamw_8bit")}),
        ("choice(true,false)", 0, 0, {"choices": ("True", "False")}),
        ("choice(1,1.0)", 0, 0, {"choices": ("1", "1.0")}),
    ],
)
def test_a_range_is_read_as_hydra_means_it(typed, low, high, more):
    space = read_space({"a.b": "interval(0,1)"}, ["c=3", f"a.b={typed}"], CONTEXT)
    (dimension,) = space.dimensions
    assert (dimension.low, dimension.high) == (low, high)
    assert {name: getattr(dimension, name) for name in more} == more
    assert space.fixed == ("c=3",)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawn = {dimension.draw(study.ask()) for _ in range(40)}
    assert all(value in dimension.choices if dimension.choices else low <= value <= high for value in drawn)
    assert set(dimension.extremes()) <= drawn or not (dimension.choices or dimension.step)
    for value in drawn:
        assert space.point({"a.b": value})[1].startswith("a.b=")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["a=interval(2,1)"], "holds no range"),
        (["a=interval(1,1)"], "holds no range"),
        (["a=range(5,1)"], "holds no range"),
        (["a=interval(0,inf)"], "holds no range"),
        (["a=tag(log,interval(0,1))"], "must begin above 0"),
        (["a=tag(lg,interval(1,2))"], "the only tag of a range is log, got lg"),
        (["a=interval(1"], "cannot read the search space"),
        (["a=3"], "nothing to search"),
    ],
)
def test_a_space_without_sense_is_one_sentence(typed, words):
    with pytest.raises(UsageError) as error:
        read_space({"a": "interval(1,2)"}, typed, CONTEXT)
    assert words in str(error.value)
