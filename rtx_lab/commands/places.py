"""Find a run by its folder or by a part of its name, so that what `status` prints is what the other commands take.

A run directory is called `<phase>/<words>-<signature>`, its words joined by hyphens.
"""

from __future__ import annotations

import difflib
import heapq
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rtx_lab.core.errors import UsageError
from rtx_lab.core.rundir import RunDir, find_runs

DEFAULT_ROOT = Path("multirun")
MOST_NAMED = 8
"""Candidates that an error names."""

_LOOKED_AT = 100
"""Names that are held against a mistyped one letter by letter: those that share most pairs of letters with it."""

_MARKS = ("config.yaml", "plan.json")
_SIGNATURE = re.compile(r"(?:^|-)([0-9a-f]{12})$")
_LEFT_OUT = re.compile(r"\.{3}|…")
_FROM, _TO = r"(?:^|(?<=[-,\s]))", r"(?=$|[-,\s])"
_WHOLE_NUMBER = r"(?!(?<=\d)\.?\d)"  # n12 is no part of n128
_WORDS = f"{_FROM}PART{_TO}"
_ANYWHERE = rf"(?:(?<!\d)|(?=\D))PART{_WHOLE_NUMBER}"
RUN_PARTS = ("^PART$", _WORDS, rf"^PART|{_FROM}PART[0-9a-f]*$|{_FROM}PART{_WHOLE_NUMBER}", _ANYWHERE)
"""What PART of the name of a run may be, the strictest first: all, whole words, a beginning (of the signature too)."""
SETTING_PARTS = ("^PART$", _WORDS, f"{_FROM}PART{_WHOLE_NUMBER}", _ANYWHERE)
"""The same for a setting, `N=64 (4to1_compression), tau=0.01`."""


def list_runs(root: Path, marks: Sequence[str] = ("config.yaml",)) -> list[RunDir]:
    """Return the runs below `root`; exported folders keep a config.yaml of their own and are no runs."""
    return [run for run in find_runs(root, marks) if not (run.path / "config.json").exists()]


def find_run(text: str, root: Path = DEFAULT_ROOT) -> RunDir:
    """Return the run (or exported model) in the folder `text`, else the one run at or below `root` with it in its name.

    What was chosen by a part is said on stderr. Raises UsageError with the candidates where there are several, with
    the nearest name where there is none, and for a run that has not begun.
    """
    if text.strip() and os.path.isfile(Path(text, "config.yaml")):
        return RunDir(Path(text))
    folders = [run.path for run in list_runs(root, _MARKS)]
    folders += _beside(Path(text), folders)
    found = match_folders(text, folders, root)
    if not found:
        raise none_found(text, [folder.name for folder in folders], root)
    if len(found) > 1:
        raise several_found(text, name_folders(found), root)
    if not (found[0] / "config.yaml").is_file():
        raise UsageError(f"{found[0]} has not begun: there is nothing in it yet but its plan")
    print(f"run: {found[0]}", file=sys.stderr)
    return RunDir(found[0])


def find_folder(place: Path | None, wanted: str) -> Path:
    """Return a folder of runs, `multirun` where none is named. Raises UsageError that says what was `wanted`."""
    if place is None or os.path.isdir(place):
        return DEFAULT_ROOT if place is None else place
    below = {folder.name: folder for folder in sorted(DEFAULT_ROOT.glob("*")) if folder.is_dir()}
    near = difflib.get_close_matches(place.name, below, n=1)
    hint = f"did you mean {below[near[0]]}?" if near else f"give {wanted}"
    raise UsageError(f"there is no folder {place}: {hint}")


def match_folders(text: str, folders: Sequence[Path], root: Path) -> list[Path]:
    """Return the run folders that `text` names: one of them, all below it, or those whose name it is a part of.

    A folder in front of the part (`nd_ratio/seed0`) is taken as it stands or below `root`, and holds the runs.
    """
    if not text.strip():
        return []
    whole = _below(text, folders, root)
    if whole:
        return whole
    head, slash, tail = text.rstrip("/").rpartition("/")
    inside = _below(head, folders, root) if slash else list(folders)
    return [inside[place] for place in match(tail, [folder.name for folder in inside])]


def match(text: str, names: Sequence[str], parts: Sequence[str] = RUN_PARTS) -> list[int]:
    """Return the places of the names that `text` is a part of; `...` in it stands for what a shortened name leaves out.

    Of `parts` only the strictest counts that is found at all: seed1 is not seed10 where both are.
    """
    words = ".*".join(re.escape(piece) for piece in _LEFT_OUT.split(text))
    for part in parts if words.strip(".*") else ():
        pattern = re.compile(part.replace("PART", words))
        found = [place for place, name in enumerate(names) if pattern.search(name)]
        if found:
            return found
    return []


def none_found(text: str, names: Sequence[str], root: Path, kind: str = "run") -> UsageError:
    """Return the error for a text that no name fits: the nearest one, or where to look."""
    if not text.strip():
        return UsageError(f"the name of a {kind} is empty: give its folder or a part of its name")
    if os.path.isdir(text):
        return UsageError(f"{text} is not the folder of a run and there is none in it: a run has a config.yaml")
    near = nearest(text.rstrip("/").rpartition("/")[2], names)
    if near is not None:
        hint = f"did you mean {near!r}?"
    elif not root.is_dir():
        hint = f"it is not the folder of one, and there is no folder {root} here to look in"
    else:
        hint = f"`python -m rtx_lab status {root}` lists them" if names else "there is none at all"
    return UsageError(f"there is no {kind} {text!r}{f' below {root}' if root.is_dir() else ''}: {hint}")


def several_found(text: str, names: Sequence[str], root: Path, kind: str = "run") -> UsageError:
    """Return the error for a text that fits several names: which ones, and how to say more."""
    told = ", ".join(names[:MOST_NAMED])
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    kinds = " or ".join(f"{word}s" for word in kind.split(" or "))
    which = f"any of {len(names)} {kinds} below {root}"
    return UsageError(f"{text!r} could be {which}: {told}{more}; say more of the name, or its signature")


def nearest(text: str, names: Iterable[str]) -> str | None:
    """Return the name that is most like `text`, or of which a piece as long as `text` is; None where none is near."""
    pairs = {text[place : place + 2] for place in range(len(text) - 1)}
    pieces: dict[str, str] = {}
    for name in heapq.nlargest(_LOOKED_AT, names, key=lambda name: sum(pair in name for pair in pairs)):
        pieces.setdefault(name, name)
        for word in re.finditer(r"[^-,\s]+", name):
            for length in (len(text), len(text) + 1, len(text) - 1):  # a letter changed, forgotten, or too many
                pieces.setdefault(name[word.start() :][: max(1, length)], name)
    near = difflib.get_close_matches(text, pieces, n=1)
    return pieces[near[0]] if near else None


def name_folders(folders: Sequence[Path]) -> list[str]:
    """Return names for `find_run`: without the words that all begin with, and with the phase where it differs."""
    start = shared_start([folder.name for folder in folders])
    names = [folder.name.removeprefix(start) for folder in folders]
    if len({folder.parent for folder in folders}) == 1:
        return names
    return [f"{folder.parent.name}/{name}" for folder, name in zip(folders, names, strict=True)]


def shared_start(names: Sequence[str]) -> str:
    """Return the words that all names begin with, up to a hyphen; a word and the signature are left to each."""
    words = [name.split("-") for name in names]
    least = min(map(len, words), default=0) - 2
    count = 0
    while count < least and len({tuple(one[: count + 1]) for one in words}) == 1:
        count += 1
    return "".join(f"{word}-" for word in words[0][:count]) if count else ""


def signature_of(name: str) -> str:
    """Return the signature at the end of the name of a run directory, an empty text where there is none."""
    found = _SIGNATURE.search(name)
    return found[1] if found else ""


def _below(text: str, folders: Sequence[Path], root: Path) -> list[Path]:
    for base in (os.path.abspath(text), os.path.abspath(root / text)):
        found = [folder for folder in folders if Path(os.path.abspath(folder)).is_relative_to(base)]
        if found:
            return found
    return []


def _beside(place: Path, known: Iterable[Path]) -> list[Path]:
    """The runs directly in the folder that was typed, or in the one around it, where they are not known yet."""
    seen = {os.path.abspath(folder) for folder in known}
    around = [folder / name for folder in (place, place.parent) for name in _entries(folder)]
    runs = [folder for folder in dict.fromkeys(around) if any(os.path.isfile(folder / mark) for mark in _MARKS)]
    return [folder for folder in runs if os.path.abspath(folder) not in seen]


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (OSError, ValueError):
        return []
