"""Copies of finished runs that can be trusted: staged, verified by digest, never overwritten."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from rtx_lab.core.errors import RunError
from rtx_lab.core.rundir import RunDir, write_text

MANIFEST = "SHA256SUMS"
CHUNK = 1 << 20


def collect(runs: Sequence[RunDir]) -> tuple[list[Path], list[str]]:
    """Return the files worth keeping, and a sentence for each run left out because its best checkpoint is damaged."""
    files: list[Path] = []
    problems: list[str] = []
    for run in runs:
        try:
            files += _kept_files(run)
        except RunError as error:
            problems.append(str(error))
    return files, problems


def back_up(files: Sequence[Path], root: Path, target: Path) -> int:
    """Copy files below `root` to their places below `target`; return how many had to be copied.

    What is already there with the same content is left as it is, so a broken-off backup continues. Raises RunError,
    before anything is copied, when a file there differs, and when a copy does not have the digest of its source.
    """
    planned = {target / path.relative_to(root): path for path in files}
    digests = {copy: digest(source) for copy, source in planned.items()}
    differing = [copy for copy in planned if copy.exists() and digest(copy) != digests[copy]]
    if differing:
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise RunError(f"{differing[0]}{more} differs from the run: nothing was copied; choose another folder")
    missing = [copy for copy in planned if not copy.exists()]
    for copy in missing:
        _copy(planned[copy], copy, digests[copy])
    _write_manifest(target, _read_manifest(target) | digests)
    return len(missing)


def _kept_files(run: RunDir) -> Iterator[Path]:
    """The result comes last: a copy that was broken off does not look finished."""
    best = _best_checkpoint(run)
    if best is not None:
        yield from sorted(path for path in best.rglob("*") if path.is_file())
    for path in (run.config_path, run.metrics_path, run.predictions_path, run.result_path):
        if path.is_file():
            yield path


def _best_checkpoint(run: RunDir) -> Path | None:
    if not run.checkpoints.is_dir() or not any(run.checkpoints.iterdir()):
        return None
    from rtx_lab.core import checkpoint

    newest, problems = checkpoint.newest(run.checkpoints)
    if newest is None and problems:
        raise RunError(f"no checkpoint of {run.path} is whole: {'; '.join(problems)}")
    return checkpoint.best(run.checkpoints) or newest


def _copy(source: Path, copy: Path, expected: str) -> None:
    staged = copy.with_name(f".{copy.name}.partial")
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, staged)
        with open(staged, "rb") as file:
            os.fsync(file.fileno())
        if digest(staged) != expected:
            raise RunError(f"{copy} did not arrive as it was sent (its digest differs): check the disk and try again")
        staged.rename(copy)
    except OSError as error:
        why = error.strerror or error
        raise RunError(f"{copy} cannot be written: {why}; run the same command again to continue") from error
    finally:
        staged.unlink(missing_ok=True)


def write_manifest(folder: Path) -> None:
    """Write SHA256SUMS over every file below `folder`, in the format of sha256sum."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    _write_manifest(folder, {path: digest(path) for path in files})


def _write_manifest(folder: Path, digests: dict[Path, str]) -> None:
    lines = [f"{digests[path]}  {path.relative_to(folder).as_posix()}\n" for path in sorted(digests)]
    write_text(folder / MANIFEST, "".join(lines))


def _read_manifest(folder: Path) -> dict[Path, str]:
    """Entries of earlier backups, whose runs may be gone by now; a broken manifest is made anew."""
    try:
        lines = (folder / MANIFEST).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    pairs = (line.split("  ", 1) for line in lines if "  " in line)
    return {folder / name: value for value, name in pairs if (folder / name).is_file()}


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits. Raises RunError when it cannot be read."""
    hashed = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                hashed.update(chunk)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    return hashed.hexdigest()
