"""Run directories written by hand: real files, as a run leaves them, with answers that a test chooses."""

import json

import yaml

from rtx_lab.core.rundir import RunDir, readable, signature, write_json
from rtx_lab.scoring.summary import summarise

CONFIG = {
    "model": {
        "_target_": "rtx_lab.models.connection_transformer.ConnectionTransformer",
        "_partial_": True,
        "d_model": 256,
        "num_slots": 64,
        "bilinear_rank": 32,
        "max_reasoning_steps": 6,
        "convergence_threshold": 0.01,
        "connection": "diag",
        "halting": "threshold",
        "fixed_steps": None,
    },
    "dataset": {"_target_": "rtx_lab.data.generated.reasoning", "_partial_": True, "num_train": 100},
    "optim": {"_target_": "rtx_lab.optim.adamw", "_partial_": True, "lr": 0.0001, "betas": [0.9, 0.999]},
    "hardware": {"name": "cpu", "device": "cpu", "precision": "fp32", "num_workers": 0},
    "budget": {"global_batch": 64, "micro_batch": 64, "steps": 20, "log_every": 10},
    "tracking": {"wandb": "off"},
    "phase": "study",
    "seed": 0,
}


def write_run(root, right, *, validation=0.5, steps=3, nll=1.0, result=None, gold="yes", **overrides):
    """Write `root`/<phase>/<run> that answered `right` (a 0 or 1 for each test item); return its RunDir.

    `overrides` are dotted keys with `__` for the dot, or whole top-level values. `result` changes result.json.
    """
    config = json.loads(json.dumps(CONFIG))
    for key, value in overrides.items():
        *sections, leaf = key.split("__")
        node = config
        for section in sections:
            node = node[section]
        node[leaf] = value
    name = f"{readable(config)}-{signature(config)}"
    run = RunDir(root / config["phase"] / name)
    run.path.mkdir(parents=True)
    run.config_path.write_text(yaml.safe_dump(config, sort_keys=False))
    taken = steps if isinstance(steps, list) else [steps] * len(right)
    records = [
        {"id": f"test-{i}", "gold": gold, "correct": bool(one), "exact_match": bool(one), "f1": float(one)}
        | {"nll": nll * (1 + i % 3), "num_tokens": 2, "steps": taken[i], "max_steps": 6}
        | {"difficulty": 1 + i % 3, "family": "abc"[i % 3]}
        for i, one in enumerate(right)
    ]
    run.write_predictions(records)
    for step in (10, 20):
        run.append_metrics({"step": step, "loss": 2.0 / step, "tokens_per_s": 1000.0 + step, "lr": 1e-4})
    run.append_metrics({"step": 20, "validation/accuracy": validation})
    metrics = {"validation/accuracy": validation, "validation/loss": 1.5}
    metrics |= {f"test/{key}": value for key, value in summarise(records).items()}
    done = {"status": "done", "reason": "trained 20 steps", "signature": signature(config), "metrics": metrics}
    done |= {"monitor": "validation/accuracy", "parameters": 1000, "time_s": 1800.0, "peak_memory_gb": 2.0}
    write_json(run.result_path, done | {"predicted_peak_memory_gb": 1.9} | (result or {}))
    return run


def answers(num_right, num_items=120, shift=0):
    """Right on `num_right` items in a row, beginning at item `shift`."""
    return [int((i - shift) % num_items < num_right) for i in range(num_items)]
