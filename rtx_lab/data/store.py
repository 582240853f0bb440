"""Token ids on disk: built once, named by content, memory-mapped, checked whenever opened."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

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
    folder = _folder(name, digest)
    if not is_sound(folder):
        arrays, meta = build()
        _publish(folder, lambda place: _save(place, arrays, meta))
    return folder


def open_or_write(name: str, digest: str, write: Callable[[Path], dict[str, Any]]) -> Path:
    """As `open_or_build` for what is too large for memory: `write` fills a folder with `growing` arrays.

    It returns what is to be noted of them.
    """
    folder = _folder(name, digest)
    if not is_sound(folder):
        _publish(folder, write)
    return folder


@contextmanager
def growing(path: Path, dtype: np.dtype) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield an `append` for a one-dimensional array on disk (.npy), whose length is written at the end."""
    with open(path, "wb") as file:
        length = 0

        def append(values: np.ndarray) -> None:
            nonlocal length
            file.write(values.astype(dtype, copy=False).tobytes())
            length += len(values)

        start = _write_header(file, dtype, 0)
        yield append
        file.seek(0)
        if _write_header(file, dtype, length) != start:
            raise AssertionError("numpy leaves room for the final length in the header of an array")


def _write_header(file: BinaryIO, dtype: np.dtype, length: int) -> int:
    description = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(file, {"descr": description, "fortran_order": False, "shape": (length,)})
    return file.tell()


def _folder(name: str, digest: str) -> Path:
    return cache_root() / "datasets" / f"{name}-{digest[:20]}"


def _save(place: Path, arrays: Arrays, meta: dict[str, Any]) -> dict[str, Any]:
    for key, array in arrays.items():
        with open(place / f"{key}.npy", "wb") as file:
            np.save(file, array)
    return meta


def _publish(folder: Path, write: Callable[[Path], dict[str, Any]]) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _write_beside(folder, write)
    except OSError as error:
        raise RunError(
            f"The token cache {folder.parent} cannot be written ({error.strerror}): "
            "free some space or set RTX_LAB_CACHE to another folder."
        ) from None


def _write_beside(folder: Path, write: Callable[[Path], dict[str, Any]]) -> None:
    """Write a folder under another name, flush it, note the digest of each file and rename it into place."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        meta = write(temporary)
        for path in temporary.glob("*.npy"):
            with open(path, "rb") as file:
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
