"""The README.md of an exported model: what it is, how well it does, and how it was made."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from rtx_lab.commands.options import option_of
from rtx_lab.core.judged import judged_by

GROUPS = ("model", "dataset", "optim")
RERUN = "python -m rtx_lab.commands.rerun THIS_FOLDER/config.yaml NEW_FOLDER"
SHOWN = ("accuracy", "exact_match", "f1", "loss", "avg_reasoning_steps", "early_termination_rate", "n")
_TRANSFORMERS = (
    "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer",
    'model = AutoModelForSeq2SeqLM.from_pretrained("THIS_FOLDER")',
    'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")',
)


def write_card(config: dict[str, Any], result: dict[str, Any], name: str) -> str:
    """Return the model card as Markdown; `config` is the run's settled configuration, `result` its result.json."""
    model, dataset = _target(config, "model"), _target(config, "dataset")
    plain = model == "PretrainedSeq2Seq"  # what plain transformers loads: T5, mT5 and BART
    library, tags = "transformers" if plain else "rtx_lab", f"tags: [rtx_lab, {model}, {dataset}]"
    lines = ["---", "license: apache-2.0", f"library_name: {library}", tags, "---", ""]
    lines += [f"# {name}", "", f"`{model}` trained on `{dataset}`, status {result.get('status', 'unknown')}.", ""]
    lines += _results(result)
    lines += ["## Use", "", "```", 'python -m rtx_lab infer THIS_FOLDER --text "..."', "```", ""]
    if plain:
        lines += ["Plain transformers loads it as well:", "", "```python", *_TRANSFORMERS, "```", ""]
    lines += ["## How it was made", "", "```", command(config), "```", "", "All settings, as in config.yaml:", ""]
    lines += ["| setting | value |", "|---|---|", *(f"| {key} | {value} |" for key, value in _settings(config)), ""]
    lines += [f"Signature {result.get('signature', 'unknown')}; digests of all files are in SHA256SUMS.", ""]
    return "\n".join(lines)


def _target(config: dict[str, Any], section: str) -> str:
    return str((config.get(section) or {}).get("_target_", "unknown")).rpartition(".")[2]


def _results(result: dict[str, Any]) -> list[str]:
    metrics = result.get("metrics") or {}
    rows = [
        f"| {split} {key} | {_number(value)} | {_interval(metrics, f'{split}/{key}')} |"
        for split in ("test", "validation")
        for key in dict.fromkeys((judged_by(result.get("monitor")).partition("/")[2], *SHOWN, *_rouge(metrics)))
        if (value := metrics.get(f"{split}/{key}")) is not None
    ]
    if not rows:
        return ["There are no results: the run was not evaluated to its end.", ""]
    return ["## Results", "", "| metric | value | 95 % interval |", "|---|---|---|", *rows, ""]


def _rouge(metrics: Mapping[str, Any]) -> list[str]:
    """ROUGE-1, -2 and -L of a run that summarises, over whichever tokens; controls and bounds left out."""
    return sorted({key.partition("/")[2] for key in metrics if re.fullmatch(r"\w+/rouge[12L]_[a-z]+", key)})


def _interval(metrics: dict[str, Any], key: str) -> str:
    low, high = metrics.get(f"{key}_low"), metrics.get(f"{key}_high")
    return "" if low is None or high is None else f"{_number(low)} to {_number(high)}"


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def command(config: dict[str, Any]) -> str:
    """Return the command that trains the same model again: every value stands in it, whatever the defaults become.

    Where no option of `conf/` is for the same class, it is the one that reads the exported config.yaml.
    """
    groups, added = [], set()
    for group in (group for group in GROUPS if _target(config, group) != "unknown"):
        found = option_of(group, config[group])
        if found is None:
            return RERUN
        name, known = found
        groups.append(f"{group}={name}")
        added |= {f"{group}.{key}" for key in config[group].keys() - known.keys()}  # by a phase
    sections = {name: config.get(name) or {} for name in (*GROUPS, "budget", "generation")}
    values = [
        f"{'+' * (key in added)}{key}={_spelled(value)}"
        for key, value in _settings(sections | {"seed": config.get("seed", 42)})
    ]
    return " ".join(["python train.py", *groups, *_task(config), *values])


def _task(config: Mapping[str, Any]) -> Iterator[str]:
    """The task, where it is another than the one that the model's class names."""
    from rtx_lab.core.components import task_of

    task = config.get("task") or {}
    if task and task.get("_target_") != task_of(config["model"]).get("_target_"):
        pairs = ", ".join(f"{key}: {json.dumps(value)}" for key, value in task.items())
        yield "+task=" + shlex.quote(f"{{{pairs}}}")


def _spelled(value: Any) -> str:
    """Write a value as Hydra reads it."""
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w./-]+", value) else shlex.quote(text)
    return shlex.quote(text) if isinstance(value, list) else text


def _settings(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{prefix}{key}.")
        elif key not in ("_target_", "_partial_"):
            yield f"{prefix}{key}", value
