"""The run directories that a report speaks of, read without torch and without Hydra.

Whatever is damaged (a cut result.json, a config that is no YAML, missing predictions) becomes a run with a `problem`;
reading never raises for the state of a single run.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from rtx_lab.core.rundir import STATUSES, RunDir, find_runs, read_json

_HEAD = re.compile(r"[A-Za-z]\w*:")
_PLAIN = re.compile(r"  [A-Za-z_]\w*: [\w.+/-]+")


@dataclass(frozen=True, slots=True)
class Run:
    """One run directory: what it was to do (`config`), how it ended (`status`), what it measured (`result`).

    `name` is `<phase folder>/<run folder>`; `status` a word of rundir or `broken`; `problem` says what is damaged.
    Where there is a result, its `metrics` are a mapping.
    """

    path: Path
    name: str
    phase: str
    status: str
    config: dict[str, Any] = field(repr=False)
    result: dict[str, Any] = field(repr=False)
    problem: str = ""

    def metric(self, key: str) -> float | None:
        """Return a number of result.json: `test/accuracy` and its like, or one that stands at the top (`time_s`)."""
        value = self.result.get("metrics", {}).get(key)
        value = self.result.get(key) if value is None else value
        return float(value) if is_number(value) else None

    def curve(self) -> list[dict[str, Any]]:
        """Return the whole lines of metrics.jsonl in the order in which they were logged."""
        return RunDir(self.path).read_metrics()

    def predictions(self) -> dict[str, dict[str, Any]]:
        """Return the records of predictions.jsonl by row id; lines that cannot be read or have no id are left out."""
        return {str(record["id"]): record for record in _lines(RunDir(self.path).predictions_path) if "id" in record}

    @property
    def seed(self) -> int:
        """The seed of the run, 0 where its config cannot be read."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, int) else 0


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value of a JSON file is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def load_runs(path: Path) -> list[Run]:
    """Return the runs at or below `path`, and those that `path/study.json` names elsewhere, in order of their names.

    Exported model folders, which keep a config.yaml beside a config.json, are no runs.
    """
    root = Path(os.path.abspath(path))
    folders = {run.path for run in find_runs(root)}
    jobs = (root.parent / str(job) for job in study_of(root).get("jobs") or [])
    folders |= {folder for folder in jobs if (folder / "config.yaml").is_file()}
    runs = [_load(folder) for folder in folders if not (folder / "config.json").exists()]
    return sorted(runs, key=lambda run: run.name)


def study_of(path: Path) -> dict[str, Any]:
    """Return study.json of a phase folder, an empty mapping where there is none."""
    return read_json(path / "study.json") or {}


def _load(folder: Path) -> Run:
    run = RunDir(folder)
    config, problem = _read_config(run.config_path)
    result = run.read_result()
    if run.is_locked():
        status, result = "running", None  # what stands there is of an earlier attempt
    elif result is None:
        status = "broken" if run.result_path.exists() else "killed"
        problem = problem or ("result.json cannot be read" if status == "broken" else "")
    else:
        status = result.get("status") if result.get("status") in STATUSES else "broken"
        problem = problem or ("result.json has no known status" if status == "broken" else "")
    if result is not None and not isinstance(result.get("metrics"), dict):
        result = result | {"metrics": {}}
    name = f"{folder.parent.name}/{folder.name}"
    return Run(folder, name, folder.parent.name, "broken" if problem else str(status), config, result or {}, problem)


def _read_config(path: Path) -> tuple[dict[str, Any], str]:
    try:
        config = _parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}, "config.yaml cannot be read"
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict) or "seed" not in config:
        return {}, "config.yaml is cut, or not that of a run"  # `seed` is among the last keys
    return config, ""


def _parse(text: str) -> Any:
    """Parse a config block by block: the runs of a study share most blocks, and YAML is slow to parse."""
    config: dict[str, Any] = {}
    for block in _blocks(text):
        part = _parse_block(block)
        if part is not None and not isinstance(part, dict):
            return part
        config |= part or {}
    return config


def _blocks(text: str) -> Iterator[str]:
    block: list[str] = []
    for line in text.splitlines(keepends=True):
        if block and line[0] not in " -#\r\n":
            yield "".join(block)
            block = []
        block.append(line)
    if block:
        yield "".join(block)


@functools.lru_cache(maxsize=1 << 14)
def _parse_block(block: str) -> Any:
    """Parse a block line by line where each line is one plain key below the first: equal lines are parsed once."""
    head, *lines = block.splitlines()
    if lines and _HEAD.fullmatch(head) and all(_PLAIN.fullmatch(line) for line in lines):
        section: dict[str, Any] = {}
        for line in lines:
            section |= _parse_yaml(line.strip())
        (key,) = _parse_yaml(head)
        return {key: section}
    return _parse_yaml(block)


@functools.lru_cache(maxsize=1 << 15)
def _parse_yaml(text: str) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        raise ValueError("not YAML") from error


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value
