"""A search: its space, its total, what an interruption changes (nothing), and how its trials end."""

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from tiny_runs import ROOT, TINY

from rtx_lab.core.errors import UsageError
from rtx_lab.core.rundir import RunDir, find_runs
from rtx_lab.sweep.search import Search, place_of, seed_of

SMALL = (
    *("-m", "phase=optuna_search", "hydra/launcher=basic", *TINY, "budget.steps=4", "budget.eval_every=2"),
    *("model.num_slots=4", "model.bilinear_rank=range(2,4)", "hydra.sweeper.pruner=none"),
)


pytestmark = pytest.mark.usefixtures("no_report")


def _study(folder, name=None):
    url = f"sqlite:///{folder}/multirun/optuna_search/study.db"
    (only,) = optuna.get_all_study_summaries(url) if name is None else [SimpleNamespace(study_name=name)]
    return optuna.load_study(study_name=only.study_name, storage=url)


def _table(folder):
    """What a search found, without times."""
    return [
        (t.number, t.state.name, t.params, t.value, t.intermediate_values, t.user_attrs)
        for t in _study(folder).get_trials()
    ]


def test_a_search_in_two_parts_equals_one_that_was_not_disturbed(command, tmp_path, monkeypatch):
    code, text = command(*SMALL, "hydra.sweeper.n_trials=2")
    assert code == 0, text
    study = _study(tmp_path)
    first = study.get_trials()
    lost = optuna.trial.create_trial(  # as a sweep leaves it that is killed while it waits for trial 1
        state=optuna.trial.TrialState.RUNNING, params=first[1].params, distributions=first[1].distributions
    )
    name = study.study_name
    identity = study.user_attrs["identity"]
    optuna.delete_study(study_name=name, storage=f"sqlite:///{tmp_path}/multirun/optuna_search/study.db")
    again = optuna.create_study(
        study_name=name, storage=f"sqlite:///{tmp_path}/multirun/optuna_search/study.db", direction="maximize"
    )
    again.set_user_attr("identity", identity)
    again.add_trial(first[0])
    again.add_trial(lost)
    code, text = command(*SMALL, "hydra.sweeper.n_trials=3")
    assert code == 0, text
    assert "3 trials (3 complete)" in text
    assert len(find_runs(tmp_path / "multirun")) == 3
    calm = tmp_path / "calm"
    calm.mkdir()
    monkeypatch.chdir(calm)
    code, text = command(*SMALL, "hydra.sweeper.n_trials=3")
    assert code == 0, text
    assert _table(tmp_path) == _table(calm)
    code, text = command(*SMALL, "hydra.sweeper.n_trials=3")
    assert code == 0
    assert "Launching" not in text
    assert f"bilinear_rank={_best(calm).params['model.bilinear_rank']}" in text.partition("best: ")[2]


def _best(folder):
    return max(_study(folder).get_trials(), key=lambda trial: (trial.value, -trial.number))


def test_trials_are_counted_of_the_total_and_on_across_restarts(command):
    fixed = ("hydra/launcher=local", "optim.lr=1e-3", "model.convergence_threshold=0.01")
    search = [*SMALL, *fixed, "model.bilinear_rank=choice(2,3)"]
    code, text = command(*search, "hydra.sweeper.n_trials=1")
    assert code == 0, text
    assert re.search(r"\[trial 1/1\] started model.bilinear_rank=[23]\n", text)
    code, text = command(*search, "hydra.sweeper.n_trials=4")
    assert code == 0, text
    assert {*re.findall(r"\[trial (\d)/4\] (?:started|done)", text)} == {"2", "3", "4"}
    assert "done already: multirun/optuna_search/" in text, "there are two points, and four trials"


def test_equal_points_are_trained_once(command, tmp_path):
    code, text = command(*SMALL, "hydra.sweeper.n_trials=3", "model.num_slots=4", "model.bilinear_rank=choice(2)",
                         "optim.lr=1e-3", "model.convergence_threshold=0.01")  # fmt: skip
    assert code == 0, text
    (run,) = find_runs(tmp_path / "multirun")
    assert [trial.value for trial in _study(tmp_path).get_trials()] == [run.read_result()["objective"]] * 3


def test_failures_are_told_and_do_not_stop_a_search_unless_too_many(command, tmp_path):
    hopeless = [*SMALL, "optim.lr=choice(1e30)", "budget.steps=3", "hydra.sweeper.n_trials=3"]
    code, text = command(*hopeless, "hydra.sweeper.max_failures=1", "hydra.sweeper.study_name=few")
    assert code == 4, text
    assert "stopped: 2 trials failed, hydra.sweeper.max_failures allows 1" in text
    code, text = command(*hopeless, "hydra.sweeper.study_name=all")
    assert code == 4, text
    assert "3 trials (3 failed)" in text
    trials = _study(tmp_path, "all").get_trials()
    assert {trial.state.name for trial in trials} == {"FAIL"}
    assert {trial.user_attrs["status"] for trial in trials} == {"diverged"}


def test_a_pruned_trial_keeps_its_values(command, tmp_path):
    search = [*SMALL, "hydra.sweeper.pruner={name: median, n_startup_trials: 2}"]
    assert command(*search, "hydra.sweeper.n_trials=1")[0] == 0
    first = _study(tmp_path).get_trials()[0]
    better = optuna.trial.create_trial(  # than any run can be
        state=optuna.trial.TrialState.COMPLETE, value=2.0, params=first.params,
        distributions=first.distributions, intermediate_values={2: 2.0, 4: 2.0},
    )  # fmt: skip
    for _ in range(2):
        _study(tmp_path).add_trial(better)
    code, text = command(*search, "hydra.sweeper.n_trials=4")
    assert code == 0, text
    last = _study(tmp_path).get_trials()[3]
    assert last.state.name == "PRUNED"
    assert list(last.intermediate_values) == [2]
    run = RunDir(tmp_path / "multirun" / last.user_attrs["run"])
    assert run.status() == "pruned"
    assert run.read_result()["steps"] == 2
    assert last.value == last.intermediate_values[2] == run.read_metrics()[-1]["validation/accuracy"]


def test_two_trials_at_a_time(command, tmp_path):
    code, text = command(*SMALL, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2")
    assert code == 0, text
    assert [trial.state.name for trial in _study(tmp_path).get_trials()] == ["COMPLETE"] * 3


def test_what_is_wrong_is_said_and_leaves_nothing(command, tmp_path):
    for arguments, words in (
        (["model.bilinear_rank=choice(2,-2)"], "model.bilinear_rank must be a positive integer, got -2"),
        (["hydra.sweeper.storage=study.txt"], "give a file name that ends in .db (sqlite) or .log (journal)"),
    ):
        code, text = command(*SMALL, *arguments)
        assert code == 2, text
        assert words in text
        assert "Traceback" not in text
        assert list(tmp_path.iterdir()) == []
    code, text = command(*SMALL, "plan=true")
    assert (code, "20 trials" in text, "h if none is pruned" in text) == (0, True, True), text
    assert list(tmp_path.iterdir()) == []


def test_a_study_is_not_continued_with_other_settings_or_by_two_searches(command, tmp_path):
    named = [*SMALL, "hydra.sweeper.n_trials=1", "hydra.sweeper.study_name=mine"]
    assert command(*named)[0] == 0
    code, text = command(*named, "budget.steps=3")
    assert code == 2
    assert "was begun with another space or other fixed settings" in text
    with RunDir(tmp_path / "multirun" / "optuna_search").lock():
        code, text = command(*named)
    assert code == 1
    assert "another process is running" in text


def test_the_plain_optuna_sweeper_finds_the_same_when_it_runs_again(command, tmp_path):
    plain = ["-m", *TINY, "budget.steps=2", "hydra/sweeper=optuna", "hydra/launcher=basic", "hydra.sweeper.n_trials=3",
             "hydra.sweeper.n_jobs=1", "hydra.sweeper.direction=maximize", "hydra.sweeper.sampler.seed=3"]  # fmt: skip
    found = []
    for _ in range(2):
        code, text = command(*plain, "optim.lr=interval(1e-4,1e-2)")
        assert code == 0, text
        found.append((tmp_path / "multirun" / "optimization_results.yaml").read_text())
    assert found[0] == found[1]
    assert len(find_runs(tmp_path / "multirun")) == 3
    code, text = command(*plain, "optim.lr=choice(1e30)")
    assert code == 1
    assert "Traceback" not in text
    assert "diverged" in text


def test_where_the_trials_are_kept(tmp_path):
    assert place_of(None, tmp_path) == f"sqlite:///{tmp_path}/study.db"
    assert place_of("a.log", tmp_path) == place_of("journal:///a.log", tmp_path) == f"journal:///{tmp_path}/a.log"
    assert place_of("sqlite:////x/y.db", tmp_path) == place_of("/x/y.db", tmp_path) == "sqlite:////x/y.db"
    assert place_of("postgresql://host/db", tmp_path) == "postgresql://host/db"
    with pytest.raises(UsageError):
        place_of("journal:///a.txt", tmp_path)


def test_settings_are_checked_and_seeds_differ():
    with pytest.raises(UsageError) as error:
        Search.of({"n_trials": 3, "params": {}, "n_jobs": 0, "max_failures": True})
    assert len(error.value.problems) == 2
    assert "hydra.sweeper.n_jobs must be a whole number from 1 on, got 0" in error.value.problems
    with pytest.raises(UsageError, match=r"hydra\.sweeper\.pruner must be one of"):
        Search.of({"n_trials": 3, "params": {}, "pruner": "medium"})
    seeds = {seed_of(seed, number) for seed in range(10) for number in range(100)}
    assert len(seeds) == 1000
    assert max(seeds) < 2**32


@pytest.mark.slow
def test_kill_9_and_the_same_command_give_the_undisturbed_search(tmp_path):
    search = [sys.executable, str(ROOT / "train.py"), *SMALL, "hydra.sweeper.n_trials=4", "budget.steps=60",
              "budget.eval_every=10", "budget.checkpoint_every=10",
              "hydra.sweeper.pruner={name: median, n_startup_trials: 1}"]  # fmt: skip
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    for folder in (calm, killed):
        folder.mkdir()
    assert subprocess.run(search, cwd=calm, capture_output=True, check=False).returncode == 0
    process = subprocess.Popen(search, cwd=killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait(lambda: _lines(killed) >= 0.6 * _lines(calm), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    states = [state for _, state, *_ in _table(killed)]
    assert states.count("RUNNING") == 1
    ended = subprocess.run(search, cwd=killed, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert _table(killed) == _table(calm)
    assert len(find_runs(killed)) == len(find_runs(calm))


def _lines(folder):
    return sum(len(run.read_metrics()) for run in find_runs(folder))


def _wait(true, process):
    while not true():
        assert process.poll() is None, "the search ended before it was killed"
        time.sleep(0.02)


@pytest.mark.slow
def test_optuna_dashboard_opens_what_a_search_leaves(command, tmp_path):
    code, text = command(*SMALL, "hydra.sweeper.n_trials=2")
    assert code == 0, text
    programs = _dashboard(tmp_path / "env")
    file = tmp_path / "multirun" / "optuna_search" / "study.db"
    url = f"sqlite:///{file}"
    if optuna.__version__.startswith("2."):  # as the search itself says at its end
        copy = file.with_name("dashboard.db")
        assert f"optuna storage upgrade --storage sqlite:///{copy}" in text
        copy.write_bytes(file.read_bytes())
        url = f"sqlite:///{copy}"
        subprocess.run([programs / "optuna", "storage", "upgrade", "--storage", url], check=True, capture_output=True)
    _serves_both_trials(programs, url)
    if not optuna.__version__.startswith("2."):
        assert command(*SMALL, "hydra.sweeper.n_trials=2", "hydra.sweeper.storage=study.log")[0] == 0
        _serves_both_trials(programs, str(file.with_name("study.log")))


def _dashboard(folder):
    venv.create(folder, with_pip=True)
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    install = [folder / "bin" / "python", "-m", "pip", "install", "-q", "optuna-dashboard"]
    done = subprocess.run(install, capture_output=True, text=True, env=clean, check=False)
    if done.returncode != 0:
        pytest.skip(f"pip cannot install optuna-dashboard: {done.stderr.strip().splitlines()[-1]}")
    return Path(folder) / "bin"


def _serves_both_trials(programs, url):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": clean}
    server = subprocess.Popen([programs / "optuna-dashboard", "--host", "127.0.0.1", "--port", port, url], **quiet)
    try:
        (study,) = _fetch(server, f"http://127.0.0.1:{port}/api/studies")["study_summaries"]
        found = _fetch(server, f"http://127.0.0.1:{port}/api/studies/{study['study_id']}")
        assert [trial["state"] for trial in found["trials"]] == ["Complete", "Complete"]
        assert all(math.isfinite(trial["values"][0]) for trial in found["trials"])
    finally:
        server.terminate()
        server.wait()


def _fetch(server, address):
    for _ in range(120):
        try:
            with urllib.request.urlopen(address, timeout=20) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{address}: {error}") from error
        except OSError:  # it does not listen yet
            assert server.poll() is None
        time.sleep(0.5)
    raise AssertionError("the dashboard did not start")
