"""Rows from a file: JSON lines (plain or gzip), parquet, csv."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtx_lab.core.errors import RunError

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", ".csv")


@dataclass(frozen=True, slots=True)
class Row:
    """The fields of a row and where it stands (`file:line`), so that every complaint can name it."""

    where: str
    fields: dict[str, Any]

    def text(self, key: str) -> str:
        """The field as text. Raises RunError when it is missing or no text."""
        return self._typed(key, str, "text")

    def texts(self, key: str) -> list[str]:
        """The field as a list of texts. Raises RunError likewise."""
        values = self._typed(key, list, "a list")
        if not values or not all(isinstance(value, str) for value in values):
            raise RunError(f"{self.where}: the field {key!r} must be a list of texts.")
        return values

    def choice(self, key: str, num_choices: int) -> int:
        """The field as an index below `num_choices`. Raises RunError likewise."""
        value = self._typed(key, int, "a whole number")
        if not 0 <= value < num_choices:
            raise RunError(f"{self.where}: the field {key!r} must be in 0 to {num_choices - 1}, not {value}.")
        return int(value)

    def truth(self, key: str) -> bool:
        """The field as true or false. Raises RunError likewise."""
        return self._typed(key, bool, "true or false")

    def nested(self, key: str) -> Row:
        """The field as a row of its own. Raises RunError likewise."""
        return Row(f"{self.where} in {key!r}", self._typed(key, dict, "an object"))

    def optional(self, key: str, default: str) -> str:
        """The field as text, or `default` where it is missing."""
        value = self.fields.get(key)
        return default if value is None else str(value)

    def _typed(self, key: str, kind: type, name: str) -> Any:
        if key not in self.fields:
            have = ", ".join(sorted(map(str, self.fields))) or "none"
            raise RunError(f"{self.where} lacks the field {key!r} (it has: {have}).")
        value = self.fields[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise RunError(f"{self.where}: the field {key!r} must be {name}, not {type(value).__name__}.")
        return value


def read_rows(path: Path) -> list[Row]:
    """Every row of a file. Raises RunError, naming file and line, when it is empty, cut short or broken."""
    try:
        rows = list(_read(path))
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror or error}).") from None
    if not rows:
        raise RunError(f"{path} holds no rows.")
    return rows


def _read(path: Path) -> Iterator[Row]:
    if path.suffix == ".parquet":
        return _read_table(path, "pyarrow.parquet", "read_table")
    if path.suffix == ".csv":
        return _read_table(path, "pyarrow.csv", "read_csv")
    return _read_lines(path)


def _read_lines(path: Path) -> Iterator[Row]:
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise RunError(f"{path} is no whole gzip file ({error}): fetch it anew.") from None
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            yield Row(f"{path}:{number}", _parse(line.removeprefix(b"\xef\xbb\xbf"), f"{path}:{number}"))


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RunError(f"{where} is not UTF-8 (byte {error.start + 1} of the line).") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{where} is not valid JSON ({error}).") from None
    if not isinstance(fields, dict):
        raise RunError(f"{where} is not a JSON object.")
    return fields


def _read_table(path: Path, module: str, function: str) -> Iterator[Row]:
    import importlib

    import pyarrow

    try:
        table = getattr(importlib.import_module(module), function)(path)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path} cannot be read as {path.suffix[1:]} ({reason}).") from None
    for number, fields in enumerate(table.to_pylist(), start=1):
        yield Row(f"{path} row {number}", fields)
