"""Run directories of denoisers written by hand: real files, as a run leaves them, with guesses that a test chooses."""

import json

import yaml

from rtx_lab.core.rundir import RunDir, readable, signature, write_json
from rtx_lab.scoring.denoising import summarise

RECURSIVE = {
    "_target_": "rtx_lab.models.rdt.RecursiveDenoiser", "_partial_": True, "d_model": 64, "n_encoder_layers": 2,
    "gate_target": "counter", "threshold": 0.05, "max_steps": 20,
}  # fmt: skip
MASKED = {
    "_target_": "rtx_lab.models.masked_lm.MaskedLanguageModel", "_partial_": True, "d_model": 64,
    "n_encoder_layers": 4, "objective": "mlm",
}  # fmt: skip
CONFIG = {
    "model": RECURSIVE,
    "dataset": {"_target_": "rtx_lab.data.stories.stories", "_partial_": True, "max_source_length": 22},
    "optim": {"_target_": "rtx_lab.optim.adamw", "_partial_": True, "lr": 0.0016},
    "hardware": {"name": "cpu", "device": "cpu", "precision": "fp32", "num_workers": 0},
    "budget": {"global_batch": 32, "steps": 20},
    "phase": "rdt_compare",
    "seed": 0,
}
NUM_MASKABLE = 20
RATIOS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
HALF, CURVE = 0.5, (1, 2, 4, 8, 16)


def record(text, ratio, *, skill, steps, fixed=0, nll=None):
    """One text at one ratio, as rtx_lab/tasks/denoise.py writes it; texts differ in how hard they are."""
    count = round(ratio * NUM_MASKABLE)
    share = max(0.0, min(1.0, skill * (1.15 - 0.6 * ratio) - 0.02 * (text % 7)))
    right = round(share * count)
    return {
        "id": f"test-{text}@{round(100 * ratio)}" + (f"/{fixed}" if fixed else ""),
        "row": text, "text": text, "ratio": ratio, "fixed_steps": fixed,
        "nll": count * (1 - share) * 4 if nll is None else nll, "num_tokens": count, "num_right": right,
        "num_unigram": count // 10, "correct": right / count if count else None,
        "exact_match": right == count if count else None, "steps": steps, "max_steps": fixed or 20,
        "flops": (30 + 34 * steps) * 1_000_000,
    }  # fmt: skip


def records_of(*, skill=0.6, num_texts=24, passes=None, fixed=True, gate=0):
    """All records of a run: a gate that counts (`passes` None) and adds `gate` steps on hard texts, or always one pass
    (or as many as `passes`)."""
    found = []
    for ratio in RATIOS:
        for text in range(num_texts):
            counted = round(20 * ratio) + text % 2 + (gate * (text % 7) if ratio else 0)
            found.append(record(text, ratio, skill=skill, steps=counted if passes is None else passes))
    for steps in CURVE if fixed else ():
        taken = steps if passes != 1 else 1
        better = skill * (1 if passes == 1 else 0.85 + 0.05 * steps**0.5)
        found += [record(text, HALF, skill=better, steps=taken, fixed=steps) for text in range(num_texts)]
    return found


def write_denoiser(root, records, *, validation=None, result=None, **overrides):
    """Write `root`/<phase>/<run> with these predictions and the metrics that follow from them; return its RunDir."""
    config = json.loads(json.dumps(CONFIG)) | overrides
    run = RunDir(root / config["phase"] / f"{readable(config)}-{signature(config)}")
    run.path.mkdir(parents=True)
    run.config_path.write_text(yaml.safe_dump(config, sort_keys=False))
    run.write_predictions(records)
    metrics = {f"test/{key}": value for key, value in summarise(records).items()}
    loss = (metrics.get("test/loss") or 1.0) if validation is None else validation
    for step in (10, 20):
        run.append_metrics({"step": step, "loss": 40.0 / step, "tokens_per_s": 1000.0 + step, "lr": 1e-4})
        run.append_metrics({"step": step, "validation/loss": loss * 20 / step})
    for key in [key for key in metrics if key.endswith("/exact_match")]:
        metrics[key.replace("exact_match", "bleu")] = metrics[key.replace("exact_match", "accuracy")] ** 2
    done = {"status": "done", "reason": "trained 20 steps", "signature": signature(config)}
    done |= {"metrics": metrics | {"validation/loss": loss}, "monitor": "validation/loss", "parameters": 1000}
    write_json(run.result_path, done | {"time_s": 60.0, "peak_memory_gb": 0.5} | (result or {}))
    return run
