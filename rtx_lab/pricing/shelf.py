"""Traces on disk, so that a shape is traced once on a machine and not once in every command.

An entry is a JSON file of its own below `RTX_LAB_CACHE`, named by its shape, by our sources and by the versions of what
they call. What is damaged or was made by other code is passed over; what cannot be written is traced again.
"""

from __future__ import annotations

import functools
import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

import rtx_lab
from rtx_lab.core.errors import RunError
from rtx_lab.core.record import versions
from rtx_lab.core.rundir import read_json, write_json
from rtx_lab.data.store import cache_root

_SOURCES = Path(rtx_lab.__path__[0])
_ABOVE = {"run.py", "__main__.py", "sweep", "commands", "report"}
"""What a trace cannot depend on: it stands above `pricing` in the layers, or beside it."""


def read(key: str) -> dict[str, Any] | None:
    """The trace of a shape as it was written; None where there is none that this code would make."""
    code = _code_at_first()
    record = read_json(_path(code, key)) if code is not None else None
    if record is None or record.pop("digest", None) != _digest(record) or record.get("key") != key:
        return None
    return record["trace"]


def write(key: str, trace: dict[str, Any]) -> None:
    """Keep the trace of a shape; nothing happens where the disk refuses, or where our sources have changed."""
    code = _code()
    if code is None:
        return
    record = {"key": key, "trace": trace}
    with suppress(RunError):
        write_json(_path(code, key), record | {"digest": _digest(record)})


def _path(code: str, key: str) -> Path:
    return cache_root() / "traces" / code[:20] / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.json"


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


@functools.cache
def _code_at_first() -> str | None:
    return _code()


def _code() -> str | None:
    """Digest of what decides a trace: our sources up to this layer, Python, and the packages that they call.

    None where a source was changed after this process began: it may run what no longer stands there.
    """
    began = psutil.Process().create_time()
    digest = hashlib.sha256(json.dumps(versions(), sort_keys=True).encode())
    try:
        for path in sorted(_SOURCES.rglob("*.py")):
            name = path.relative_to(_SOURCES)
            if name.parts[0] in _ABOVE:
                continue
            if path.stat().st_mtime > began:
                return None
            digest.update(f"{name.as_posix()}\n{path.stat().st_size}\n".encode() + path.read_bytes())
    except OSError:
        return None
    return digest.hexdigest()
