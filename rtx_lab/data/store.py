"""Token ids on disk: built once, named by content, memory-mapped, checked whenever opened."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rtx_lab.core.errors import RunError

Arrays = dict[str, np.ndarray]
META = "meta.json"


def cache_root() -> Path:
    """Where token ids are kept: `RTX_LAB_CACHE`, by default `~/.cache/rtx_lab`."""
    return Path(os.environ.get("RTX_LAB_CACHE") or Path.home() / ".cache" / "rtx_lab")


def open_or_build(name: str, digest: str, build: Callable[[], tuple[Arrays, dict[str, Any]]]) -> Path:
    """The folder of the arrays named by `digest`, built first when missing or broken.

    Safe with several builders at once: each writes a folder of its own and the first to rename it wins.
    Raises RunError when the cache cannot be written; what `build` raises leaves nothing behind.
    """
    folder = cache_root() / "datasets" / f"{name}-{digest[:20]}"
    if is_sound(folder):
        return folder
    arrays, meta = build()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _publish(folder, arrays, meta)
    except OSError as error:
        raise RunError(
            f"The token cache {folder.parent} cannot be written ({error.strerror}): "
            "free some space or set RTX_LAB_CACHE to another folder."
        ) from None
    return folder


def _publish(folder: Path, arrays: Arrays, meta: dict[str, Any]) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for key, array in arrays.items():
            with open(temporary / f"{key}.npy", "wb") as file:
                np.save(file, array)
                file.flush()
                os.fsync(file.fileno())
        checks = {path.name: file_digest(path) for path in sorted(temporary.glob("*.npy"))}
        (temporary / META).write_text(json.dumps({**meta, "files": checks}), encoding="utf-8")
        _replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(temporary: Path, folder: Path) -> None:
    """Rename a finished folder into place, over a broken one if need be; a sound one of another builder stays."""
    for _ in range(10):
        try:
            os.rename(temporary, folder)
            return
        except OSError:
            if not folder.exists():
                raise
        if is_sound(folder):
            return
        broken = Path(tempfile.mkdtemp(prefix=f".{folder.name}.broken.", dir=folder.parent))
        try:
            os.rename(folder, broken / "was")
        except FileNotFoundError:
            pass  # another builder has just moved it away
        finally:
            shutil.rmtree(broken, ignore_errors=True)
    raise OSError(0, f"{folder} cannot be replaced")


def is_sound(folder: Path) -> bool:
    """Whether every file of a cache folder is there and has the digest that it was written with."""
    try:
        files = json.loads((folder / META).read_text(encoding="utf-8"))["files"]
        return bool(files) and all(file_digest(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def load(folder: Path) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:
    """The memory-mapped arrays of a folder, and what was noted of them."""
    meta = json.loads((folder / META).read_text(encoding="utf-8"))
    arrays = {Path(name).stem: _map(folder / name) for name in meta["files"]}
    return arrays, meta


def _map(path: Path) -> np.ndarray:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array.view(np.ndarray)  # a plain view: slicing np.memmap costs ten times as much


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
