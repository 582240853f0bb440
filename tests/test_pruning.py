"""What a job of a search does after each evaluation."""

import logging
import sqlite3
from types import SimpleNamespace

import optuna
import pytest

from rtx_lab import pruning
from rtx_lab.core.errors import UsageError
from rtx_lab.core.parallel import Ranks
from rtx_lab.core.training import Ended, TrainState

COMPLETE, RUNNING = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.RUNNING
PRUNER = {"name": "median", "n_startup_trials": 2}
MONITOR = "validation/accuracy"


@pytest.fixture
def place(tmp_path):
    """A study with two good trials and a third that runs; where the third stands."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(study_name="s", storage=pruning.open_storage(url), direction="maximize")
    for _ in range(2):
        seen = {4: 0.8, 8: 0.9}
        study.add_trial(optuna.trial.create_trial(state=COMPLETE, value=0.9, intermediate_values=seen))
    study.add_trial(optuna.trial.create_trial(state=RUNNING))
    return {"storage": url, "study": "s", "number": 2, "pruner": PRUNER}


def _watch(place, value, step, kept=None):
    return pruning.watched(
        lambda: {MONITOR: value}, {"trial": place}, monitor=MONITOR, state=TrainState(step=step), last_step=8,
        ranks=Ranks(), keep=(kept if kept is not None else []).append,
    )  # fmt: skip


def _reported(place):
    study = optuna.load_study(study_name=place["study"], storage=place["storage"])
    return study.get_trials()[place["number"]].intermediate_values


def test_a_run_that_is_no_trial_evaluates_as_ever():
    def evaluate():
        return {MONITOR: 0.5}

    for plan in (None, {}, {"signature": "x"}):
        asked = {"monitor": MONITOR, "state": TrainState(), "last_step": 8, "ranks": Ranks(), "keep": print}
        assert pruning.watched(evaluate, plan, **asked) is evaluate


def test_a_hopeless_trial_ends_pruned_and_keeps_its_last_evaluation(place):
    kept = []
    with pytest.raises(Ended, match=r"pruned at step 4: validation/accuracy 0\.1000") as end:
        _watch(place, 0.1, 4, kept)()
    assert end.value.status == "pruned"
    assert kept == [{"step": 4, MONITOR: 0.1}]
    assert _reported(place) == {4: 0.1}


def test_a_good_trial_goes_on_and_one_that_is_trained_is_not_pruned(place):
    kept = []
    assert _watch(place, 0.95, 4, kept)() == {MONITOR: 0.95}
    assert _watch(place, 0.1, 8, kept)() == {MONITOR: 0.1}
    assert kept == []
    assert _reported(place) == {4: 0.95, 8: 0.1}


def test_a_step_is_reported_once_though_it_is_evaluated_again_after_a_resume(place):
    _watch(place, 0.95, 4)()
    assert _watch(place, 0.85, 4)() == {MONITOR: 0.85}
    assert _reported(place) == {4: 0.95}


def test_a_value_that_is_no_number_is_not_reported(place):
    assert _watch(place, float("nan"), 4)()
    assert _watch(place, None, 4)() == {MONITOR: None}
    assert _reported(place) == {}


def test_without_a_pruner_nothing_is_pruned(place):
    place["pruner"] = "none"
    assert _watch(place, 0.1, 4)() == {MONITOR: 0.1}
    assert _reported(place) == {4: 0.1}


def test_a_storage_that_is_gone_costs_one_line_and_is_not_made_anew(place, tmp_path, caplog):
    (tmp_path / "study.db").unlink()
    look = _watch(place, 0.1, 4)
    with caplog.at_level(logging.WARNING):
        assert look() == look() == {MONITOR: 0.1}
    assert [record.message.count("goes on unpruned") for record in caplog.records] == [1]
    assert not (tmp_path / "study.db").exists()


def test_a_storage_that_is_locked_costs_one_line(place, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(pruning, "_PATIENCE_S", 0.1)
    holder = sqlite3.connect(tmp_path / "study.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with caplog.at_level(logging.WARNING):
        assert _watch(place, 0.1, 4)() == {MONITOR: 0.1}
    holder.close()
    assert "goes on unpruned" in caplog.text
    assert _reported(place) == {}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("mediann", "must be one of none, median, percentile, halving, got 'mediann'"),
        ({"name": "median", "startup": 3}, "median has no startup; known: n_startup_trials"),
        ({"name": "median", "n_startup_trials": -1}, "hydra.sweeper.pruner: "),
        ("percentile", "hydra.sweeper.pruner: "),
    ],
)
def test_a_pruner_that_optuna_does_not_know_is_one_sentence(asked, words):
    with pytest.raises(UsageError) as error:
        pruning.build_pruner(asked)
    assert words in str(error.value)


def test_journal_storage_opens_or_is_refused_in_words(tmp_path):
    url = f"journal:///{tmp_path / 'study.log'}"
    if optuna.__version__.startswith("2."):
        with pytest.raises(UsageError, match=r"has no journal storage: give hydra.sweeper.storage a \.db file"):
            pruning.open_storage(url)
    else:
        study = optuna.create_study(study_name="s", storage=pruning.open_storage(url))
        assert study.study_name == "s"
        assert (tmp_path / "study.log").exists()


def test_ranks_follow_the_first(place):
    told = SimpleNamespace(leads=False, from_lead=lambda values: [1.0])
    look = pruning.watched(
        lambda: {MONITOR: 0.1}, {"trial": place}, monitor=MONITOR, state=TrainState(step=4), last_step=8,
        ranks=told, keep=print,
    )  # fmt: skip
    with pytest.raises(Ended, match="pruned at step 4"):
        look()
    assert _reported(place) == {}
