"""What is handed in for dialogues without summaries: a CSV of fname and summary, one line a dialogue."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rtx_lab.core.errors import RunError, UsageError

COLUMNS = ("fname", "summary")
SHOWN = 3
"""How many names a problem lists."""


def submission_text(rows: Iterable[tuple[str, str]]) -> str:
    """The CSV of (fname, summary) rows, in their order. Raises UsageError for a name that is missing or stands twice.

    White space within a summary, line breaks too, becomes one space: graders read line by line.
    """
    table = [(fname, " ".join(summary.split())) for fname, summary in rows]
    counts = Counter(fname for fname, _ in table)
    wrong = [repr(fname) for fname, count in counts.items() if count > 1 or not fname.strip()]
    if wrong:
        raise UsageError(f"A submission names every dialogue once; missing or repeated: {_some(wrong)}.")
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(table)
    return out.getvalue()


def write_submission(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Write rows with `fname` and `summary` to `path`, whole or not at all.

    Raises UsageError as `submission_text`, RunError when the disk refuses.
    """
    text = submission_text((row["fname"], row["summary"]) for row in rows)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = file.name
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise RunError(f"The submission {path} cannot be written ({error.strerror or error}).") from None


def check_submission(path: Path, expected_fnames: Sequence[str]) -> list[str]:
    """Hold a submission against the names of the test file, in their order; return what is wrong, a sentence each."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file, strict=True))
    except OSError as error:
        return [f"{path} cannot be read ({error.strerror or error})."]
    except (UnicodeDecodeError, csv.Error) as error:
        return [f"{path} is no CSV in UTF-8 ({error})."]
    if not lines or tuple(lines[0]) != COLUMNS:
        found = ",".join(lines[0]) if lines else "nothing"
        return [f"{path} must begin with the line {','.join(COLUMNS)}, not {found}."]
    ragged = [str(number) for number, line in enumerate(lines[1:], start=1) if len(line) != len(COLUMNS)]
    if ragged:
        return [f"{path}: row {_some(ragged)} must have {len(COLUMNS)} fields."]
    return [f"{path} {problem}" for problem in _problems(lines[1:], expected_fnames)]


def _problems(lines: list[list[str]], expected: Sequence[str]) -> list[str]:
    names = [fname for fname, _ in lines]
    known, found = set(expected), Counter(names)
    groups = {
        "lacks": [fname for fname in expected if fname not in found],
        "has, against the test file,": [fname for fname in found if fname not in known],
        "repeats": [fname for fname, count in found.items() if count > 1],
        "has no summary for": [fname for fname, summary in lines if not summary.strip()],
    }
    problems = [f"{what} {_some(who)}." for what, who in groups.items() if who]
    if not problems and names != list(expected):
        at = next(row for row, (ours, theirs) in enumerate(zip(names, expected, strict=True)) if ours != theirs)
        problems.append(f"is in another order than the test file, from row {at + 1} ({names[at]}) on.")
    return problems


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
