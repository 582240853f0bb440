"""`python train.py` as a user types it, in this process: exit codes, sentences, and what is left on the disk."""

import json
import logging
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rtx_lab.core.rundir import RunDir, find_runs, write_json
from rtx_lab.sweep.door import enter

ROOT = Path(__file__).parent.parent.parent
TINY = (
    *("dataset.num_train=256", "dataset.num_validation=64", "dataset.num_test=64"),
    *("model.d_model=16", "model.num_slots=8", "model.bilinear_rank=4", "hardware=cpu", "hardware.num_threads=1"),
    *("budget.eval_every=4", "budget.log_every=1", "tracking.tensorboard=false"),
)


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    """Run train.py in an empty folder; return exit code and what was printed."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py"), *arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        logging.shutdown()
        out, err = capfd.readouterr()
        return end.value.code, out + err

    return call


def _nothing_written(folder):
    return list(Path(folder).iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model.num_slot=64"], "did you mean `model.num_slots`?"),
        (["model=bilinear_tny"], "did you mean `model=bilinear_tiny`?"),
        (["datset=gsm8k"], "did you mean `dataset`?"),
        (["learning_rate=3e-4"], "here it is `optim.lr`"),
        (["per_device_train_batch_size=8"], "here it is `budget.micro_batch`"),
        (["optim.learning_rate=3e-4"], "did you mean `optim.lr`?"),
        (["model.num_slots=-4"], "model.num_slots must be a positive integer, got -4"),
        (["model.num_slots=abc"], "model.num_slots must be an integer, got 'abc'"),
        (["optim.lr=inf"], "optim.lr must be a positive finite number, got inf"),
        (["optim.lr=nan"], "optim.lr must be a positive finite number, got nan"),
        (["budget.micro_batch=24"], "use 16 or 32"),
        (["budget.steps=abc"], "budget.steps"),
        (["+foo=1"], "unknown key `foo`"),
        (["nonsense"], "`nonsense` is not an override"),
        (["=3"], "`=3` is not an override"),
        (["model=null"], "model has no option `None`: choose one of"),
        (["~dataset", "dataset.num_train=4"], "`~dataset` removes what every run needs"),
        (["~model.num_slots"], "model.num_slots is missing"),
        (["model.num_slots=4,8"], "add -m"),
        (["seed=-1"], "seed must be 0 to"),
        (["hardware.num_threads=100000"], "hardware.num_threads must be 1 to 1024"),
        (["model.num_slots=[64"], "cannot read `model.num_slots=[64`"),
        (["~model"], "choose an option of the group, as model=NAME"),
        (["model.connection=denze"], "model.connection must be one of dense, core, diag, scalar, linear"),
        (["model.vocab_size=7"], "model.vocab_size=7 does not cover the 116 entries"),
        (["init_from=/nowhere"], "/nowhere holds no checkpoint"),
        (["dataset.num_train=0"], "dataset.num_train must be at least 1"),
        (["-m", "phase=main,smoke"], "sweep one phase at a time"),
        (["-m", "model.num_slots=64,-2,abc"], "got -2"),
        (["seed=1", "-m", "model.num_slots=64,-2"], "got -2"),
        (["-m", "optim.lr=1e-3,inf", "model.num_slots=8,x"], "got 'x'"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(command, tmp_path, arguments, words):
    code, text = command(*arguments)
    assert code == 2, text
    assert words in text
    assert "Traceback" not in text
    assert _nothing_written(tmp_path)


def test_several_mistakes_are_named_together(command):
    code, text = command("model.num_slots=-4", "optim.lr=inf", "budget.micro_batch=24", "hardware.num_threads=0")
    assert code == 2
    assert text.count("error: ") == 4
    code, text = command("model.num_slot=64", "budget.stps=3", "model=bilinear_tny")
    assert code == 2
    assert text.count("did you mean") == 3


def test_a_gpu_preset_without_a_gpu_is_refused_and_can_be_planned(command, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    code, text = command("hardware=rtx4090")
    assert code == 2
    assert "needs an NVIDIA GPU" in text
    code, text = command(
        "hardware=rtx4090", "plan=true", "model=bilinear_large", "dataset=gsm8k", "model.connection=dense"
    )
    assert code == 0
    assert "4,3" in text, "the dense large model has 4.3 billion parameters"
    assert _nothing_written(tmp_path)


def test_looking_leaves_nothing(command, tmp_path):
    for arguments in (
        ["--help"],
        ["--cfg", "job", "--resolve"],
        ["--info", "defaults"],
        ["plan=true"],
        ["-m", "plan=true", "seed=1,2"],
    ):
        code, text = command(*arguments)
        assert code in (0, None), text
        assert _nothing_written(tmp_path), arguments


def test_a_run_is_done_once_and_holds_its_files(command, tmp_path):
    code, text = command(*TINY, "budget.steps=6")
    assert code == 0, text
    (run,) = find_runs(tmp_path / "multirun")
    result = run.read_result()
    assert result["status"] == "done"
    assert result["metrics"]["test/n"] == 64
    assert result["signature"] == run.path.name[-12:]
    assert [record["step"] for record in run.read_metrics() if "loss" in record] == [1, 2, 3, 4, 5, 6]
    rows = [json.loads(line) for line in run.predictions_path.read_text().splitlines()]
    assert len({row["id"] for row in rows}) == 64
    assert not any(key.startswith("_") for row in rows for key in row)
    accuracy = sum(row["correct"] for row in rows) / 64
    assert accuracy == pytest.approx(result["metrics"]["test/accuracy"])
    before = run.result_path.read_bytes()
    code, text = command(*TINY, "budget.steps=6", "tracking.wandb=off", "hardware.num_workers=0")
    assert code == 0
    assert "already done" in text
    assert run.result_path.read_bytes() == before


def test_a_changed_input_is_refused_not_skipped(command, tmp_path):
    assert command(*TINY, "budget.steps=1")[0] == 0
    (run,) = find_runs(tmp_path / "multirun")
    result = run.read_result()
    result["digests"]["data"] = "0" * 64
    run.result_path.write_text(json.dumps(result))
    code, text = command(*TINY, "budget.steps=1")
    assert code == 2
    assert "these inputs have changed since: data" in text


def test_a_sweep_runs_each_experiment_once_and_tells(command, tmp_path):
    code, text = command("-m", *TINY, "budget.steps=2", "seed=1,2,1")
    assert code == 0, text
    assert len(find_runs(tmp_path / "multirun")) == 2
    assert text.count("done") >= 2
    code, text = command("-m", *TINY, "budget.steps=2", "seed=range(1,4)")
    assert code == 0, text
    assert len(find_runs(tmp_path / "multirun")) == 3


def test_two_jobs_in_one_process_equal_two_processes(command, tmp_path):
    assert command("-m", *TINY, "budget.steps=3", "seed=1,2")[0] == 0
    sweep = {run.path.name: _numbers(run) for run in find_runs(tmp_path / "multirun")}
    for run in find_runs(tmp_path / "multirun"):
        run.path.rename(tmp_path / run.path.name)
    assert command(*TINY, "budget.steps=3", "seed=2")[0] == 0
    (alone,) = find_runs(tmp_path / "multirun")
    assert _numbers(alone) == sweep[alone.path.name]


def _numbers(run):
    timed = ("_s", "memory_gb", "data_wait")
    return [{k: v for k, v in record.items() if not k.endswith(timed)} for record in run.read_metrics()]


def test_joblib_runs_the_same_sweep(command, tmp_path):
    code, text = command("-m", *TINY, "budget.steps=2", "seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert code == 0, text
    assert [run.status() for run in find_runs(tmp_path / "multirun")] == ["done", "done"]


def test_an_optuna_search_gets_its_objective(command, tmp_path):
    code, text = command(
        "-m", *TINY, "budget.steps=2", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.direction=maximize", "optim.lr=interval(1e-4,1e-2)",
    )  # fmt: skip
    assert code == 0, text
    assert len(find_runs(tmp_path / "multirun")) == 2


def test_run_anyway_trains_again(command, tmp_path):
    assert command(*TINY, "budget.steps=1")[0] == 0
    (run,) = find_runs(tmp_path / "multirun")
    first = _numbers(run)
    code, text = command(*TINY, "budget.steps=1", "run_anyway=true")
    assert code == 0
    assert "already done" not in text
    assert _numbers(run) == first


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 0)])
def test_a_signal_saves_and_the_same_command_ends_as_if_undisturbed(tmp_path, signum, code):
    long = [sys.executable, str(ROOT / "train.py"), *TINY, "budget.steps=120", "budget.eval_every=1000"]
    calm, stopped = tmp_path / "calm", tmp_path / "stopped"
    calm.mkdir()
    stopped.mkdir()
    subprocess.run(long, cwd=calm, check=True, capture_output=True)
    process = subprocess.Popen(long, cwd=stopped, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    _wait_for_step(stopped, 5)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert "Traceback" not in output
    (run,) = find_runs(stopped)
    assert run.status() == "interrupted"
    assert subprocess.run(long, cwd=stopped, capture_output=True).returncode == 0
    (undisturbed,) = find_runs(calm)
    assert _numbers(run) == _numbers(undisturbed)
    assert run.predictions_path.read_bytes() == undisturbed.predictions_path.read_bytes()


def _wait_for_step(folder, step):
    for _ in range(600):
        for run in find_runs(folder):
            if any(record["step"] >= step for record in RunDir(run.path).read_metrics()):
                return
        time.sleep(0.05)
    raise AssertionError("the run did not get going")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 0)])
def test_a_signal_outside_a_run_ends_with_its_exit_code(signum, code):
    with pytest.raises(SystemExit) as end:
        enter(lambda: signal.raise_signal(signum))
    assert end.value.code == code


def test_what_the_disk_refuses_is_one_sentence(capsys):
    def refuse():
        raise OSError(30, "Read-only file system", "multirun")

    assert enter(refuse) == 1
    assert capsys.readouterr().err == (
        "error: cannot use multirun: Read-only file system; free space or change its permissions\n"
    )


def test_help_imports_nothing_heavy():
    code = (
        "import sys, runpy; sys.argv = ['train.py', '--help']\n"
        "try: runpy.run_path('train.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'transformers', 'datasets', 'pandas', 'rich', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_weights_of_another_model_are_refused_before_anything_is_written(command, tmp_path):
    assert command(*TINY, "budget.steps=1")[0] == 0
    (run,) = find_runs(tmp_path / "multirun")
    code, text = command(*TINY, "budget.steps=1", "model.d_model=32", f"init_from={run.path}")
    assert code == 2
    assert "belongs to another model" in text
    assert find_runs(tmp_path / "multirun") == [run]


def test_a_parent_is_one_experiment_however_it_is_spelled_and_refused_once_it_changed(command, tmp_path):
    assert command(*TINY, "budget.steps=1")[0] == 0
    (parent,) = find_runs(tmp_path / "multirun")
    child = (*TINY, "budget.steps=1", "seed=7")
    assert command(*child, f"init_from={parent.path}")[0] == 0
    code, text = command(*child, f"init_from={parent.path.relative_to(tmp_path)}")
    assert code == 0
    assert "already done" in text
    shutil.rmtree(parent.checkpoints)
    donor = next(run for run in find_runs(tmp_path / "multirun") if run.path != parent.path)
    shutil.copytree(donor.checkpoints, parent.checkpoints)
    code, text = command(*child, f"init_from={parent.path}")
    assert code == 2
    assert "these inputs have changed since: init_from" in text


def test_a_broken_line_is_named_and_leaves_nothing(command, tmp_path, monkeypatch):
    data = tmp_path / "data" / "strategy_qa"
    data.mkdir(parents=True)
    line = json.dumps({"qid": "a", "question": "Is it so?", "answer": True})
    for name in ("train90", "dev10"):
        (data / f"{name}.jsonl").write_text(f"{line}\n{line}\n{{broken\n")
    monkeypatch.setenv("RTX_LAB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("RTX_LAB_TOKENIZERS", str(_words_as_t5(tmp_path)))
    code, text = command("dataset=strategyqa", "dataset.rows={train90: 3, dev10: 3}", "hardware=cpu")
    assert code == 1, text
    assert "train90.jsonl:3" in text
    assert not (tmp_path / "multirun").exists()


def _words_as_t5(folder):
    """The shipped vocabulary under the name of T5's: a tokenizer that needs no network."""
    place = folder / "tokenizers" / "t5"
    place.mkdir(parents=True)
    shutil.copy(ROOT / "rtx_lab" / "data" / "assets" / "words" / "tokenizer.json", place)
    write_json(place / "tokenizer_config.json", {"pad_token": "<pad>", "eos_token": "</s>"})
    return place.parent
