"""The run directory: where a run stands on disk, how it is identified, and what each file in it means.

Standard library only, so that reports and `status` can read ten thousand runs without loading torch.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtx_lab.core.errors import RunError

STATUSES = ("done", "out_of_memory", "diverged", "failed", "interrupted", "refused", "pruned")
"""Terminal states; `running`, `killed` and `new` are read from the lock and the files."""

UNSIGNED = frozenset({"tracking", "plan", "run_anyway", "inherit", "expect", "labels", "exclusive"})
"""Top-level keys that do not change what a run computes."""

_HELD: set[Path] = set()
"""Runs that this process holds: POSIX drops a lock when *any* handle on its file is closed, so ours stays unopened."""

_PAUSES_S = (0.01, 0.05, 0.2, None)
"""Between the tries to take a lock: `status` holds it shared for the instant in which it looks."""

UNSIGNED_NESTED = {
    "hardware": ("num_workers", "memory_gb", "power_w", "peak_tflops", "bandwidth_gb_s"),
    "budget": ("log_every", "keep_last"),
}

SWITCHES = {"ltpo": "enabled"}
"""Sections that change nothing while their switch is off."""

LATER = {"generation": {"temperature": 0.0}}
"""Keys that came later, at the value that earlier runs had without them: these keep their signatures."""


def signature(config: Mapping[str, Any]) -> str:
    """Hash what a settled config computes: 12 hexadecimal digits, equal for 1 and 1.0, blind to key order."""
    kept = {key: value for key, value in config.items() if key not in UNSIGNED}
    for section, keys in UNSIGNED_NESTED.items():
        if isinstance(kept.get(section), Mapping):
            kept[section] = {key: value for key, value in kept[section].items() if key not in keys}
    for section, neutral in LATER.items():
        if isinstance(kept.get(section), Mapping):
            kept[section] = {key: value for key, value in kept[section].items() if neutral.get(key, ...) != value}
    for section, switch in SWITCHES.items():
        if section in kept and not (kept[section] or {}).get(switch):
            del kept[section]
    return hashlib.sha256(json.dumps(canonical(kept), sort_keys=True).encode()).hexdigest()[:12]


def canonical(value: Any) -> Any:
    """A plain tree in the form in which two spellings of one value are equal: 1.0 is 1, a tuple is a list."""
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def parent_identity(place: str) -> str:
    """How a parent enters the signature of a run: by its own signature, however its folder is spelled."""
    path = Path(os.path.abspath(place))
    for run, rest in ((path, ""), (path.parent, path.name), (path.parent.parent, path.name)):
        result = RunDir(run).read_result()
        if result is not None and result.get("signature"):
            return f"{result['signature']}/{rest}"
    return str(path)


def readable(config: Mapping[str, Any]) -> str:
    """Name a run by its values: model, size, dataset, seed. Two spellings of one command give one name."""
    model, dataset = config.get("model") or {}, config.get("dataset") or {}
    parts = [_leaf(model), str(model.get("connection") or "")]
    sizes = (("n", "num_slots"), ("d", "d_model"), ("r", "bilinear_rank"))
    parts += [f"{short}{model[key]}" for short, key in sizes if model.get(key) is not None]
    parts += [_leaf(dataset), f"seed{config.get('seed', 0)}"]
    return "-".join(part for part in parts if part)


def _leaf(node: Mapping[str, Any]) -> str:
    """`rtx_lab.models.connection_transformer.ConnectionTransformer` -> `connection_transformer`."""
    leaf = str(node.get("_target_", "")).rpartition(".")[2]
    snake = "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(leaf))
    return snake


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: temporary file, fsync, rename.

    Raises RunError when the disk refuses; the earlier file, if any, stays as it was.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror}; free space or change its permissions") from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; not-a-number becomes null."""
    write_text(path, json.dumps(_finite(value), indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where there is none or it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _finite(value: Any) -> Any:
    """JSON has no nan or infinity; other readers than Python's refuse them."""
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


@dataclass(frozen=True, slots=True)
class RunDir:
    """One run's folder. Creating the object touches nothing."""

    path: Path

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def result_path(self) -> Path:
        return self.path / "result.json"

    @property
    def plan_path(self) -> Path:
        return self.path / "plan.json"

    @property
    def predictions_path(self) -> Path:
        return self.path / "predictions.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def lock_path(self) -> Path:
        return self.path / ".lock"

    def read_result(self) -> dict[str, Any] | None:
        """The record of the last attempt, None where there is none or it cannot be read."""
        return read_json(self.result_path)

    def read_plan(self) -> dict[str, Any] | None:
        """What was known before the run was started: its price, its parents; None where there is none."""
        return read_json(self.plan_path)

    def status(self) -> str:
        """One of STATUSES, or `running` (lock held), `killed` (started, no result, free lock), `new`."""
        if self.is_locked():
            return "running"
        result = self.read_result()
        if result is not None and result.get("status") in STATUSES:
            return result["status"]
        return "killed" if self.config_path.exists() else "new"

    def is_locked(self) -> bool:
        """Whether a living process, this one included, holds this run."""
        if _HELD and self.path.resolve() in _HELD:
            return True
        try:
            with open(
                self.lock_path, "rb"
            ) as file:  # a shared lock needs no right to write: runs of others, read-only disks
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process. Raises RunError when another process holds it.

        lockf and not flock: a loader worker that outlives its killed parent does not keep a lockf lock.
        """
        taken = f"another process is running {self.path}: wait for it or stop it first"
        key = self.path.resolve()
        if key in _HELD:
            raise RunError(taken)
        with open(self.lock_path, "a+b") as file:
            for pause_s in _PAUSES_S:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if pause_s is None:
                        raise RunError(taken) from error
                    time.sleep(pause_s)
            _HELD.add(key)
            try:
                yield
            finally:
                _HELD.discard(key)

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        self._append(self.metrics_path, [record])

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl; a line cut by a crash is left out."""
        return list(self._read_lines(self.metrics_path))

    def rewind_metrics(self, step: int) -> None:
        """Drop what was logged after `step`, so that a resumed run writes each step once."""
        if self.metrics_path.exists():
            kept = [
                json.dumps(record, ensure_ascii=False)
                for record in self.read_metrics()
                if isinstance(record.get("step"), int) and record["step"] <= step
            ]
            write_text(self.metrics_path, "".join(f"{line}\n" for line in kept))

    def write_predictions(self, records: list[dict[str, Any]]) -> None:
        """Write predictions.jsonl, one object per row, whole or not at all."""
        lines = (json.dumps(_finite(record), ensure_ascii=False) for record in records)
        write_text(self.predictions_path, "".join(f"{line}\n" for line in lines))

    @staticmethod
    def _append(path: Path, records: list[Mapping[str, Any]]) -> None:
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(_finite(record), ensure_ascii=False) + "\n" for record in records)
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror}; free space or change its permissions") from error

    @staticmethod
    def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
        if not path.exists():
            return
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    value = json.loads(line)
                except ValueError:
                    continue
                if isinstance(value, dict):
                    yield value


def find_runs(root: Path, marks: Collection[str] = ("config.yaml",)) -> list[RunDir]:
    """Every run directory at or below `root`, in path order; a run is a folder that holds a file named in `marks`.

    Nothing below a run is looked at: ten thousand runs have a million files.
    """
    return [RunDir(Path(path)) for path in sorted(_walk(str(root), marks))]


def _walk(folder: str, marks: Collection[str]) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError:
        return
    if any(entry.name in marks and entry.is_file() for entry in found):
        yield folder
        return
    for entry in found:
        if entry.name != "wandb" and entry.is_dir(follow_symlinks=False):  # wandb keeps config.yaml files of its own
            yield from _walk(entry.path, marks)
