"""Run directories of a latent-memory study written by hand: real files, as runs leave them, with chosen answers."""

import json

import yaml

from rtx_lab.core.rundir import RunDir, readable, signature, write_json
from rtx_lab.scoring.solutions import summarise

LTPO = {
    "enabled": False, "lr": 0.03, "sigma": 0.1, "decay": 0.99, "max_steps": 10, "top_k": 10, "control": None,
    "num_candidates": 1, "where": "all",
}  # fmt: skip
CONFIG = {
    "model": {
        "_target_": "rtx_lab.models.latent_memory.LatentMemory", "_partial_": True, "checkpoint": None, "d_model": 64,
        "max_prompt_aug_num": 1, "max_inference_aug_num": 5, "prompt_latents_len": 8, "pretrain_phase": "tiny_lm",
    },
    "dataset": {"_target_": "rtx_lab.data.generated.arithmetic", "_partial_": True, "num_train": 100},
    "optim": {"_target_": "rtx_lab.optim.adamw", "_partial_": True, "lr": 0.001},
    "hardware": {"name": "cpu", "device": "cpu", "precision": "fp32", "num_workers": 0},
    "generation": {"max_new_tokens": 64, "temperature": 0.0},
    "budget": {"global_batch": 16, "micro_batch": 16, "steps": 0},
    "ltpo": LTPO,
    "seed": 0,
}  # fmt: skip
TRAINING = {
    "tiny_lm": {"_target_": "rtx_lab.tasks.answering.TuneTask", "part": "base", "insert": "random", "latents": "noise"},
    "weaver_sft": {"_target_": "rtx_lab.tasks.answering.TuneTask", "part": "weaver", "insert": "always"},
    "prompt_tuning": {"_target_": "rtx_lab.tasks.answering.TuneTask", "part": "prompt", "insert": "prompt"},
    "lora_sft": {"_target_": "rtx_lab.tasks.answering.TuneTask", "part": "tuned", "insert": "never"},
    "trigger_grpo": {"_target_": "rtx_lab.tasks.trigger.TriggerTask", "insert": "trigger"},
}
LENGTH = 20
"""Tokens of every answer."""


def record(item, right, *, decided, inserted, text=None, moved=None):
    """One answer, as rtx_lab/tasks/answering.py records it."""
    found = {
        "id": f"test-{item}", "row": item, "prompt": f"{item} + 1 =", "gold": str(item + 1), "solution": f"#### {item}",
        "prediction": text or f"{'right' if right else 'wrong'} #### {item}", "correct": bool(right),
        "correct_strict": bool(right) and item % 10 != 0, "num_tokens": LENGTH, "cut": item % 8 == 0,
        "decided_at": list(decided), "inserted_at": list(inserted), "num_latents": 8 * len(inserted),
        "seconds": 0.01 * (1 + len(inserted)), "difficulty": 1 + item % 3, "family": "ab"[item % 2],
    }  # fmt: skip
    return found if moved is None else found | moved


def write_arm(
    root, phase, right, *, parent=None, seed=0, decided=(), inserted=(), ltpo=None, result=None, status="done",
    records=None, change=None, moved=None, **task,
):  # fmt: skip
    """Write `root`/<phase>/<run> that answered `right` (a 0 or 1 for each item); return its RunDir.

    `task` are keys of the task section; `parent` is the run whose weights it takes, at its best checkpoint. A status
    other than done leaves no answers; `change` maps dotted keys of the config to values.
    """
    config = json.loads(json.dumps(CONFIG)) | {"phase": phase, "seed": seed}
    own = TRAINING.get(phase, {"_target_": "rtx_lab.tasks.answering.TuneTask", "part": None})
    config["budget"]["steps"] = 40 if phase in TRAINING else 0
    config["task"] = {"_partial_": True, "latents": "woven", "insert_share": 0.5} | own | task
    config["ltpo"] |= {"enabled": True} | ltpo if ltpo is not None else {}
    config["init_from"] = f"multirun/{parent.path.parent.name}/{parent.path.name}/checkpoints/best" if parent else None
    for key, value in (change or {}).items():
        section, _, leaf = key.rpartition(".")
        (config[section] if section else config)[leaf] = value
    run = RunDir(root / phase / f"{readable(config)}-{signature(config)}")
    run.path.mkdir(parents=True)
    run.config_path.write_text(yaml.safe_dump(config, sort_keys=False))
    run.append_metrics({"step": 0, "loss": 1.0})
    done = {"status": status, "reason": "as written", "signature": signature(config), "metrics": {}}
    if status == "done":
        places = {"decided": decided, "inserted": inserted}
        records = records or [record(item, one, **places, moved=moved) for item, one in enumerate(right)]
        run.write_predictions(records)
        done |= {"metrics": metrics_of(records), "monitor": "validation/accuracy", "time_s": 120.0}
        done |= {"peak_memory_gb": 1.5 + seed / 2, "predicted_peak_memory_gb": 1.25}
    write_json(run.result_path, done | (result or {}))
    return run


def metrics_of(records):
    """What rtx_lab/scoring/solutions.py says of these answers, and an accuracy on validation, which is never tested."""
    found = {f"test/{key}": value for key, value in summarise(records).items()}
    return found | {"validation/accuracy": found["test/accuracy"]}


def first(count, num_items=100):
    """Right on the first `count` items."""
    return [int(item < count) for item in range(num_items)]


def flipped(right, *, lost, gained):
    """The same answers, but for the first `lost` right ones now wrong and the first `gained` wrong ones now right."""
    to_wrong = [item for item, one in enumerate(right) if one][:lost]
    to_right = [item for item, one in enumerate(right) if not one][:gained]
    return [int(item in to_right or (one and item not in to_wrong)) for item, one in enumerate(right)]


def write_memory_study(root, *, seeds=(0,), without=()):
    """Write all stages and controls of a study whose numbers are known; `without` names phases that did not run.

    Over 100 items: base 40; weaver 60 (2 lost, 22 gained); trigger 64 (1 lost, 5 gained); LTPO 64 (3 lost, 3 gained).
    """
    base, always, decided = first(40), flipped(first(40), lost=2, gained=22), (0, 5, 10, 15)
    fires, optimised = flipped(always, lost=1, gained=5), flipped(flipped(always, lost=1, gained=5), lost=3, gained=3)
    for seed in seeds:
        at = {"seed": seed}
        tiny = write_arm(root, "tiny_lm", base, **at)
        write_arm(root, "base_eval", base, parent=tiny, insert="never", **at)
        weaver = write_arm(root, "weaver_sft", always, parent=tiny, decided=decided, inserted=decided, **at)
        own = at | {"parent": weaver, "decided": decided}
        write_arm(root, "weaver_eval", always, inserted=decided, insert="always", **own)
        write_arm(root, "weaver_eval", base, insert="never", **at, parent=weaver)
        write_arm(root, "weaver_eval", first(41), inserted=decided, insert="always", latents="noise", **own)
        for share, count in ((0.2, 1), (0.5, 2), (0.8, 3)):
            places = decided[:count]
            write_arm(root, "weaver_eval", first(50), inserted=places, insert="random", insert_share=share, **own)
        write_arm(root, "prompt_tuning", first(45), parent=tiny, latents="learnt", **at)
        write_arm(root, "lora_sft", first(55), parent=tiny, **at)
        if "trigger_grpo" in without:
            continue
        trigger = write_arm(root, "trigger_grpo", fires, inserted=decided[:2], **own)
        own = at | {"parent": trigger, "decided": decided, "inserted": decided[:2], "insert": "trigger"}
        write_arm(root, "trigger_eval", fires, **own)
        if "ltpo_eval" in without:
            continue
        moved = {"ltpo_first": 1.0, "ltpo_best": 1.5, "ltpo_moved": 0.2, "ltpo_steps": 10}
        write_arm(root, "ltpo_eval", optimised, ltpo={}, moved=moved, **own)
        still = moved | {"ltpo_best": 1.0, "ltpo_moved": 0.0, "ltpo_steps": 0}
        write_arm(root, "ltpo_eval", fires, ltpo={"max_steps": 0}, moved=still, **own)
        write_arm(root, "ltpo_eval", fires, ltpo={"control": "random_direction"}, moved=moved, **own)
        write_arm(root, "ltpo_eval", fires, ltpo={"control": "best_of", "num_candidates": 8}, moved=moved, **own)
