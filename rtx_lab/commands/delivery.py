"""Where answers to a file of questions go: to another file, whole or not at all, or to the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rtx_lab.core.errors import UsageError
from rtx_lab.core.rundir import write_text


def refuse_place(out: Path | None) -> None:
    """Raise UsageError where a file stands already, or its folder does not."""
    if out is None:
        return
    if out.exists():
        raise UsageError(f"{out} exists: choose another name or remove it")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"the folder of {out} is not there: make it first")


def deliver(rows: Sequence[Mapping[str, Any]], out: Path | None, what: str) -> int:
    """Write or print one JSON line a row; return the exit code."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if out is None:
        print(text, end="")
        return 0
    write_text(out, text)
    print(f"{len(rows)} {what} in {out}")
    return 0
