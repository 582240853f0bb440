"""Rows from a file: JSON lines (plain or gzip), parquet, csv."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from rtx_lab.core.errors import RunError

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", ".csv")
ROWS_AT_ONCE = 4096


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


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file one by one; only csv is held in memory as a whole.

    Raises RunError, naming file and line, when the file is empty, cut short or broken.
    """
    readers = {".parquet": _read_parquet, ".csv": _read_csv}
    empty = True
    try:
        for row in readers.get(path.suffix, _read_lines)(path):
            empty = False
            yield row
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror or error}).") from None
    if empty:
        raise RunError(f"{path} holds no rows.")


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """A file's bytes, of .gz those within. Raises RunError, here or while reading, for a broken gzip file."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            yield cast(BinaryIO, file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RunError(f"{path} is no whole gzip file ({error}): fetch it anew.") from None


def _read_lines(path: Path) -> Iterator[Row]:
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
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


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            rows = (fields for batch in file.iter_batches(ROWS_AT_ONCE) for fields in batch.to_pylist())
            yield from _numbered(path, rows)
    except pyarrow.ArrowException as error:
        raise RunError(f"{path} cannot be read as parquet ({str(error).splitlines()[0]}).") from None


def _read_csv(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.csv

    try:
        yield from _numbered(path, pyarrow.csv.read_csv(path).to_pylist())
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read as csv ({str(error).splitlines()[0]}).") from None


def _numbered(path: Path, rows: Iterable[dict[str, Any]]) -> Iterator[Row]:
    for number, fields in enumerate(rows, start=1):
        yield Row(f"{path} row {number}", fields)
