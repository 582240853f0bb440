"""A file of the configuration that cannot be composed, as one sentence with its name and line: no override mends it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

_IN = re.compile(r"\bIn '?([\w./-]+?)'?: ?(.*)", re.DOTALL)
"""How Hydra begins what it says of a file; the rest is its reason."""
_KEY = re.compile(r"^ *full_key: (\S+)", re.MULTILINE)
_OPTION = re.compile(r"'(?:override )?([\w/-]+)")


def explain_file(error: BaseException, folder: Path) -> str | None:
    """Return which file of `folder` an error of composing comes from, at which line where that can be told, and why.

    None where the error names no file.
    """
    for inner in _causes(error):
        mark = getattr(inner, "problem_mark", None)
        if isinstance(inner, yaml.MarkedYAMLError) and mark is not None:
            return f"{_named(Path(mark.name))}:{mark.line + 1} is not YAML ({inner.problem}): mend this line"
        if isinstance(inner, UnicodeDecodeError):
            return _not_utf8(folder)
    for inner in _causes(error):
        found = _IN.search(str(inner))
        path = folder / f"{found[1]}.yaml" if found else folder
        if found and path.is_file():
            return f"{_named(path)}{_line(path, found[2])} cannot be composed: {_reason(found[2])}"
    return None


def explain_first_file(error: BaseException, folder: Path) -> str:
    """The same where conf/ does not compose as it stands: what names no file is said of config.yaml."""
    path = folder / "config.yaml"
    told = next((text for inner in _causes(error) if (text := str(inner).strip())), type(error).__name__)
    return explain_file(error, folder) or f"{_named(path)}{_line(path, told)} cannot be composed: {_reason(told)}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _named(path: Path) -> str:
    """As a user would type it from where they are."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _not_utf8(folder: Path) -> str | None:
    for path in sorted(folder.rglob("*.yaml")):
        try:
            path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            return f"{_named(path)}:{line} is not UTF-8: save the file as UTF-8"
    return None


def _reason(text: str) -> str:
    """Hydra's words on one line: without the name of its exception, the key, and the options of a group."""
    kept = re.split(r"\n *(?:full_key|object_type|reference_type|Available options)\b", text)[0]
    return " ".join(kept.replace("\n", " ").partition("raised while composing config:")[2].split() or kept.split())


def _line(path: Path, text: str) -> str:
    """`:7`, the line of the key or of the option that is spoken of; empty where it is not to be found."""
    key, option = _KEY.search(text), _OPTION.search(text)
    parts = key[1].split(".") if key else option[1].split("/") if option else []
    lines = path.read_text(encoding="utf-8").splitlines()
    words = [re.compile(rf"(?<![\w-]){re.escape(part)}(?![\w-])") for part in parts]
    told = [(number, line) for number, line in enumerate(lines, start=1) if words and not line.lstrip().startswith("#")]
    whole = (number for number, line in told if all(word.search(line) for word in words))
    last = (number for number, line in told if words[-1].search(line))
    number = next(whole, None) or next(last, None)
    return f":{number}" if number else ""
