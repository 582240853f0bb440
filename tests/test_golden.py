"""Golden runs: the first ten losses of the real data, model, task and loop, in float64 on a CPU, kept as text.

A change of one of these numbers is a change of the experiment: it has to be meant, and explained in the commit.
Write them anew with `python tests/test_golden.py [NAME ...]`.
"""

import os
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
SMALL = (
    *("hardware=cpu", "hardware.num_threads=1", "budget.global_batch=16", "budget.micro_batch=8", "optim.lr=3e-3"),
    *("model.d_model=16", "model.dropout=0", "budget.log_every=1"),
)
ROWS = ("dataset.num_train=256", "dataset.num_validation=16", "dataset.num_test=16")
SLOTS = ("model.num_slots=8", "model.bilinear_rank=4", "model.num_heads=2")
BLOCKS = ("dataset=stories", "model.n_heads=2", "model.d_ff=32", "model.n_encoder_layers=2")
GATE = ("model.gate_hidden_dim=8",)
WHOLE = ("dataset=dialogues", "model.quantize=none", "model.lora_rank=null", "model.lora_targets=null")
"""A summariser trained whole: adapters are float32 whatever the rest is."""
SUMMARISERS = {
    **dict.fromkeys(("mt5_xlsum_optimized_v2", "mt5_xlsum_korean_adapted", "mt5_xlsum_ultimate"), "tiny_mt5"),
    "eenzeenee_t5": "tiny_t5",
    **dict.fromkeys(("baseline_kobart", "high_learning_rate", "batch_optimization"), "tiny_bart"),
    **dict.fromkeys(("batch_study", "batch_study_factors", "summary_controls"), "tiny_bart"),
}
TINY = (
    *("hardware=cpu", "hardware.num_threads=1", "budget.global_batch=16", "budget.micro_batch=8", "budget.log_every=1"),
    *("model=memgen_tiny", "dataset=arithmetic", "optim.lr=3e-3", "budget.steps=10", "model.d_model=16"),
    *("model.n_heads=2", "model.n_kv_heads=1", "model.head_dim=8", "model.d_ff=32", "model.lora_rank=4"),
)
STAGES = ("tiny_lm", "weaver_sft", "prompt_tuning", "lora_sft", "trigger_grpo", "weaver_grpo")
EVALUATIONS = {"base_eval", "weaver_eval", "trigger_eval", "ltpo_eval", "ltpo_sweep"}
"""Stages that train nothing, and so have no losses."""
RUNS = {
    "main": ("phase=main", "budget.steps=10"),
    "main_arithmetic": ("phase=main", "budget.steps=10", "dataset=arithmetic"),
    "main_ponder": ("phase=main", "budget.steps=10", "model.halting=ponder"),
    "main_fixed_steps": ("phase=main", "budget.steps=10", "model.fixed_steps=2", "model.slots=learned"),
    "main_dense": ("phase=main", "budget.steps=10", "model.connection=dense"),
    "main_core": ("phase=main", "budget.steps=10", "model.connection=core", "model.step_norm=per_step"),
    "main_linear": ("phase=main", "budget.steps=10", "model=linear"),
    "main_transformer_baseline": ("phase=main", "budget.steps=10", "model=transformer_baseline"),
    "smoke": ("phase=smoke",),
    **{
        phase: (f"phase={phase}", "budget.steps=10")
        for phase in ("baselines", "nd_ratio", "rank", "dynamic", "final", "optuna_search")
    },
    **{
        phase: (f"phase={phase}", "budget.steps=10", *BLOCKS, *GATE)
        for phase in ("rdt_sanity", "rdt_scale", "rdt_search", "rdt_compare", "rdt_inference")
    },
    **{phase: (f"phase={phase}", "budget.steps=10", f"model={model}", *WHOLE) for phase, model in SUMMARISERS.items()},
    **{phase: (f"phase={phase}", *TINY) for phase in STAGES},
    "rdt_multitask": ("phase=rdt_multitask", "budget.steps=10", *BLOCKS[1:], *GATE),
    "rdt_compare_commit": ("phase=rdt_compare", "budget.steps=10", "model.commit=true", *BLOCKS, *GATE),
    "rdt_compare_revealed": (
        *("phase=rdt_compare", "budget.steps=10", "model.supervision=newly_revealed", "model.reinject=false"),
        *("model.gate_target=entropy", "model.masking=random", *BLOCKS, *GATE),
    ),
    "rdt_compare_seed": ("phase=rdt_compare", "budget.steps=10", "model=rdt_seed_small", *BLOCKS, *GATE),
    **{
        f"rdt_compare_{model}": ("phase=rdt_compare", "budget.steps=10", f"model={model}_tiny", *BLOCKS)
        for model in ("mlm", "cmlm", "mdlm")
    },
}


def data_of(overrides: tuple[str, ...], folder: Path) -> list[str]:
    """What makes a run's data small; the one that reads a public set gets sentences of the tests in its form."""
    if "phase=rdt_multitask" in overrides:
        from sentences import write_sst2

        return [f"dataset.{key}={value}".replace("'", "") for key, value in write_sst2(folder, 256, 16).items()]
    return [*ROWS, *(() if {"dataset=stories", "dataset=dialogues"} & set(overrides) else SLOTS)]


def losses(overrides: tuple[str, ...], folder: Path) -> list[float]:
    """The loss of every step of a run that logs every step and evaluates nothing."""
    from rtx_lab.core.components import bind
    from rtx_lab.core.schema import settle
    from rtx_lab.core.training import Plan
    from rtx_lab.loop import fit
    from rtx_lab.run import build
    from rtx_lab.sweep.door import COMPOSE_KEYWORDS

    small = list(ROWS) if set(TINY) <= set(overrides) else [*SMALL, *data_of(overrides, folder)]
    with initialize_config_dir(config_dir=str(ROOT / "conf"), **COMPOSE_KEYWORDS):
        config = compose("config", overrides=[*small, *overrides], return_hydra_config=True)
    torch.set_default_dtype(torch.float64)  # weights drawn in float32 would differ in their last bits between CPUs
    try:
        parts = build(settle(config).run)
    finally:
        torch.set_default_dtype(torch.float32)
    model, steps = parts.model, parts.run.budget.steps
    assert all(parameter.dtype == torch.float64 for parameter in model.parameters())
    update = bind(parts.run.optim)(model, steps)
    plan = Plan(steps=steps, log_every=1, eval_every=steps + 1)
    lines = []
    score = {parts.task.monitor: 0.0}
    outcome = fit(
        model, parts.task, update, plan, parts.device, seed=parts.run.seed, log=lines.append, evaluate=lambda: score
    )
    assert outcome.status == "done", outcome.reason
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture
def threads():
    """`hardware.num_threads` holds for the process; the tests after this one shall not notice."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", RUNS)
def test_the_losses_are_those_on_record(name, threads, tmp_path):
    rows = [line.split() for line in (GOLDEN / f"{name}.txt").read_text().splitlines()]
    found = losses(RUNS[name], tmp_path)
    assert [int(step) for step, _ in rows] == list(range(1, len(found) + 1))
    assert found == pytest.approx([float(loss) for _, loss in rows], rel=1e-9, abs=0)


def test_every_phase_has_its_record():
    """A phase that is a sequence of others trains nothing of its own."""
    files = {path.stem: path.read_text() for path in (ROOT / "conf" / "phase").glob("*.yaml")}
    phases = {name for name, text in files.items() if "    stages:" not in text and "    stage_overrides:" not in text}
    assert {overrides[0].removeprefix("phase=") for overrides in RUNS.values()} == phases - EVALUATIONS
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(RUNS)


def write_anew() -> None:
    """Replace every record by what this version computes."""
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["RTX_LAB_CACHE"] = cache
        for name in sys.argv[1:] or RUNS:
            overrides = RUNS[name]
            rows = [f"{step} {loss!r}\n" for step, loss in enumerate(losses(overrides, Path(cache, name)), start=1)]
            (GOLDEN / f"{name}.txt").write_text("".join(rows))
            print(name, rows[-1].strip())


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent / "reference")]
    write_anew()
