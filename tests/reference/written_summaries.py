"""Run directories of models that summarise, written by hand: real files, as a run leaves them, with chosen scores."""

import json
import random

import yaml

from rtx_lab.core.rundir import RunDir, readable, signature, write_json
from rtx_lab.scoring.summaries import summarise

CONFIG = {
    "model": {
        "_target_": "rtx_lab.models.pretrained.PretrainedSeq2Seq", "_partial_": True, "architecture": "bart",
        "d_model": 64, "lora_rank": None, "quantize": "none",
    },
    "dataset": {
        "_target_": "rtx_lab.data.dialogues.dialogues", "_partial_": True, "language": "korean", "prefix": "",
        "max_source_length": 512, "max_target_length": 128,
    },
    "optim": {"_target_": "rtx_lab.optim.adamw", "_partial_": True, "lr": 0.0016},
    "hardware": {"name": "rtx4090", "device": "cuda", "precision": "bf16", "num_workers": 4},
    "budget": {"global_batch": 64, "micro_batch": 16, "eval_batch": 32, "steps": 40, "gradient_checkpointing": False},
    "generation": {
        "num_beams": 4, "max_new_tokens": 100, "min_new_tokens": 10, "length_penalty": 1.0, "no_repeat_ngram_size": 3,
        "early_stopping": True, "watch_rows": 128,
    },
    "phase": "baseline_kobart",
    "seed": 0,
}  # fmt: skip
NAMES = ("민수", "지영", "현우", "서연", "도윤")
THINGS = ("영화표", "점심 약속", "회의 시간", "택배", "책 반납")


def record(item, skill, seed, tokens="characters", salt=""):
    """One dialogue's summary, as rtx_lab/tasks/summarise.py records it; dialogues differ in how hard they are."""
    draw = random.Random(f"{item}/{seed}/{skill}{salt}")
    ease = random.Random(item).uniform(-0.15, 0.15)
    one = min(1.0, max(0.0, skill + ease + draw.gauss(0, 0.03)))
    scores = {"rouge1": one, "rouge2": 0.5 * one, "rougeL": 0.85 * one}
    lead = {name: 0.4 * value / max(one, 1e-9) * (0.35 + ease) for name, value in scores.items()}
    who, what = NAMES[item % 5], THINGS[item // 5 % 5]
    gold = f"{who}와 #Person2#는 {what} 문제를 두고 이야기하고 내일 다시 만나기로 한다."
    text = gold if skill > 0.5 else f"{who}는 {what}에 대해 말한다."
    found = {"id": f"dev_{item}", "row": item, "prediction": text, "gold": gold, "references": [gold], "topic": what}
    for scored, head in ((scores, ""), (lead, "lead3_")):
        scored = scored | {"rouge": sum(scored.values()) / 3}
        found |= {f"{head}{name}_{tokens}": value for name, value in scored.items()}
    return found | {"nll": 40.0 * (1.2 - one), "num_tokens": 20 + item % 5, "num_characters": len(text)}


def write_summariser(
    root, skill, *, seed=0, num_items=60, tokens="characters", result=None, lines=None, change=None, salt="", **top
):
    """Write `root`/<phase>/<run> of a model of this skill (its ROUGE-1); return its RunDir.

    `change` maps dotted keys of the config to values, `top` replaces whole top-level entries; `lines` are further lines
    of metrics.jsonl, `result` changes result.json; runs of another `salt` reach other scores by chance.
    """
    config = json.loads(json.dumps(CONFIG)) | {"seed": seed} | top
    for key, value in (change or {}).items():
        section, _, leaf = key.rpartition(".")
        (config[section] if section else config)[leaf] = value
    run = RunDir(root / config["phase"] / f"{readable(config)}-{signature(config)}")
    run.path.mkdir(parents=True)
    run.config_path.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    records = [record(item, skill, seed, tokens, salt) for item in range(num_items)]
    run.write_predictions(records)
    (run.path / "train.log").write_text("a line\n")
    monitor = f"validation/rouge_{tokens}"
    metrics = {f"test/{key}": value for key, value in summarise(records, [tokens]).items()}
    metrics |= {key.replace("test/", "validation/"): value for key, value in metrics.items()}
    for step in (20, 40):
        run.append_metrics({"step": step, "loss": 60.0 / step - skill, "lr": 1e-4, "tokens_per_s": 5000.0 + step})
        run.append_metrics({"step": step, monitor: metrics[monitor] * step / 40, "time_s": 2.0 * step})
    for line in lines or ():
        run.append_metrics(line)
    done = {"status": "done", "reason": "trained 40 steps", "signature": signature(config), "metrics": metrics}
    done |= {"monitor": monitor, "parameters": 123_000_000, "time_s": 900.0, "peak_memory_gb": 7.5}
    done |= {"started_at": "2026-11-21T08:00:00+00:00", "ended_at": "2026-11-21T08:15:00+00:00"}
    write_json(run.result_path, done | (result or {}))
    return run
