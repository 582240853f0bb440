"""Dialogues with summaries from files: DialogSum, and CSV files of one's own laid out as its Korean translation is."""

from __future__ import annotations

import csv
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.data.corpora import CONVERTED
from rtx_lab.data.corpus import HELD_OUT_SEED, Corpus, Hub
from rtx_lab.data.dialogues import ALL_SPECIAL_TOKENS, SPECIAL_TOKENS, SUBMISSION, Dialogue, DialogueDataset, over
from rtx_lab.data.reading import Row
from rtx_lab.data.store import file_digest
from rtx_lab.data.text import SPLITS

FILES_VERSION = "dialogue files 1"
NUM_REFERENCES = 3
"""Summaries of each test dialogue of DialogSum, published as rows of their own (test_0_1, test_0_2, test_0_3)."""
LONGEST_FIELD = 2**24


def dialogsum(
    *,
    path: str | None = None,
    folder: str = "dialogsum",
    splits: Mapping[str, str],
    rows: Mapping[str, int] | None = None,
    tokenizer: str | None = None,
    vocab_size: int | None = None,
    special_tokens: Sequence[str] = ALL_SPECIAL_TOKENS,
    prefix: str = "",
    max_source_length: int = 512,
    max_target_length: int = 128,
    rouge_tokenizer: str = "whitespace",
) -> DialogueDataset:
    """DialogSum (12,460 train, 500 validation, 500 test dialogues of three references each), English.

    Local folder: `<folder>/<split>.jsonl[.gz]`, `.parquet` or `.csv` with id, dialogue, summary and topic; test rows
    whose ids differ behind the last `_` alone are one dialogue. `rows` counts lines. Hub: knkarthick/dialogsum, read as
    the hub's own parquet conversion; its commit is not pinned. Licence CC BY-NC-SA 4.0.
    """
    if set(splits) != set(SPLITS):
        raise UsageError(f"dataset.splits must name a file for each of {', '.join(SPLITS)}, and for nothing else.")
    counts = {"train": 12460, "validation": 500, "test": 1500}
    files = {name: f"default/{name}/0000.parquet" for name in counts}
    hub = Hub(repo="knkarthick/dialogsum", revision=CONVERTED, files=files, rows=counts)
    corpus = Corpus(name="dialogsum", path=path, folder=folder, splits=splits, local_rows=counts, hub=hub, rows=rows)
    return over(
        "dialogsum",
        {name: PublishedDialogues(corpus=corpus, split=name) for name in SPLITS},
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        special_tokens=special_tokens,
        prefix=prefix,
        max_source_length=max_source_length,
        max_target_length=max_target_length,
        rouge_tokenizer=rouge_tokenizer,
    )


def dialogue_csv(
    *,
    path: str | None = None,
    num_validation: int = 500,
    tokenizer: str | None = None,
    vocab_size: int | None = None,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    prefix: str = "",
    max_source_length: int = 512,
    max_target_length: int = 128,
    rouge_tokenizer: str = "morphemes",
) -> DialogueDataset:
    """A folder with train.csv, dev.csv and, if there is something to hand in, test.csv.

    Columns: fname, dialogue, summary and, if there is one, topic. `num_validation` rows of train.csv, always the same,
    are held out to choose by; dev.csv is the split `test` that is reported; test.csv, whose summaries may be missing,
    is the split `submission`.
    """
    if not path:
        raise UsageError("dataset=dialogue_csv reads files of your own: set dataset.path=<folder with train.csv>.")
    if num_validation < 1:
        raise UsageError(f"dataset.num_validation must be at least 1, not {num_validation}.")
    folder = Path(path).expanduser()
    train = folder / "train.csv"
    parts = {n: CsvDialogues(file=train, split=n, num_held_out=num_validation) for n in ("train", "validation")}
    parts["test"] = CsvDialogues(file=folder / "dev.csv", split="test")
    if (folder / "test.csv").exists():
        parts[SUBMISSION] = CsvDialogues(file=folder / "test.csv", split=SUBMISSION)
    return over(
        "dialogue_csv",
        parts,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        special_tokens=special_tokens,
        prefix=prefix,
        max_source_length=max_source_length,
        max_target_length=max_target_length,
        rouge_tokenizer=rouge_tokenizer,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedDialogues:
    """One split of DialogSum; the rows of a test dialogue become one with several references."""

    corpus: Corpus
    split: str

    @property
    def num_items(self) -> int:
        lines = self.corpus.published_rows(self.split)
        if self.split != "test":
            return lines
        try:
            return len(self.dialogues()) if self.corpus.rows else lines // NUM_REFERENCES
        except RunError:  # opening the split says what is wrong
            return lines

    def digest(self) -> str:
        files, _ = self.corpus.locate(self.split)
        parts = (FILES_VERSION, self.split, *map(file_digest, files))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def dialogues(self) -> list[Dialogue]:
        rows = [_published(row) for row in self.corpus.stream(self.split)]
        _refuse_repeated(((one.id, where) for one, where in rows), "id")
        return _grouped(rows) if self.split == "test" else [one for one, _ in rows]


def _published(row: Row) -> tuple[Dialogue, str]:
    dialogue, summary = (_needed(row.text(key), key, row.where) for key in ("dialogue", "summary"))
    topic = row.optional("topic", "") or None
    found = Dialogue(id=row.text("id"), dialogue=dialogue, references=(summary,), topic=topic, language="english")
    return found, row.where


def _grouped(rows: list[tuple[Dialogue, str]]) -> list[Dialogue]:
    """One dialogue for all rows whose ids differ behind their last `_`, in the order in which they first occur."""
    groups: dict[str, list[Dialogue]] = {}
    for one, where in rows:
        stem, _, number = one.id.rpartition("_")
        group = groups.setdefault(stem if "_" in stem and number.isdigit() else one.id, [])
        if group and group[0].dialogue != one.dialogue:
            raise RunError(f"{where}: {one.id} and {group[0].id} are references of one dialogue, but the texts differ.")
        group.append(one)
    return [
        Dialogue(
            id=name,
            dialogue=group[0].dialogue,
            references=tuple(reference for one in group for reference in one.references),
            topic=group[0].topic,
            language=group[0].language,
        )
        for name, group in groups.items()
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvDialogues:
    """One split of a folder of CSV files; train and validation share a file."""

    file: Path
    split: str
    num_held_out: int = 0

    @property
    def num_items(self) -> int:
        """Counted; 1 where the file cannot be read, which opening it says."""
        try:
            num_rows = _count(self.file, *_stamp(self.file))
        except RunError:
            return 1
        held_out = min(self.num_held_out, num_rows)
        return max(1, {"train": num_rows - held_out, "validation": held_out}.get(self.split, num_rows))

    def problem(self) -> str | None:
        """Why these dialogues cannot be opened, read whole; None where they can."""
        try:
            self.dialogues()
        except RunError as error:
            return str(error)
        return None

    def digest(self) -> str:
        parts = [FILES_VERSION, self.split, self.num_held_out, _content(self.file, *_stamp(self.file))]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def dialogues(self) -> list[Dialogue]:
        rows = list(_dialogues(self.file, judged=self.split != SUBMISSION))
        _refuse_repeated(((one.id, where) for one, where in rows), "fname")
        found = [one for one, _ in rows]
        if self.split not in ("train", "validation"):
            return found
        if self.num_held_out >= len(found):
            raise RunError(
                f"{self.file} has {len(found)} rows, of which dataset.num_validation={self.num_held_out} are held out: "
                f"set dataset.num_validation={max(1, len(found) // 10)} or so."
            )
        train, validation = held_out(len(found), self.num_held_out)
        return [found[row] for row in (train if self.split == "train" else validation)]


def held_out(num_rows: int, num_held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows to train on, rows to choose by), both ascending: a pure function of the two numbers."""
    order = np.random.Generator(np.random.PCG64([HELD_OUT_SEED, num_rows])).permutation(num_rows)
    return np.sort(order[num_held_out:]), np.sort(order[:num_held_out])


def _dialogues(file: Path, *, judged: bool) -> Iterator[tuple[Dialogue, str]]:
    for row in read_csv(file, ("fname", "dialogue", "summary") if judged else ("fname", "dialogue")):
        fname, dialogue = (_needed(row.text(key), key, row.where) for key in ("fname", "dialogue"))
        summary = row.optional("summary", "")
        references = (_needed(summary, "summary", row.where),) if judged else (summary,) if summary.strip() else ()
        topic = row.optional("topic", "") or None
        yield Dialogue(id=fname, dialogue=dialogue, references=references, topic=topic), row.where


def names_of(file: Path) -> list[str]:
    """The fname of every dialogue of a CSV file, in its order. Raises RunError as `read_csv`."""
    return [one.id for one, _ in _dialogues(file, judged=False)]


def read_csv(file: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a CSV file in UTF-8 one by one; fields in quotes may hold line breaks.

    Raises RunError, naming file and row (the first below the header is 1), when it is missing or broken, lacks one of
    `columns`, or has a row of another length.
    """
    csv.field_size_limit(LONGEST_FIELD)
    number = 0
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            header = next(reader, [])
            missing = [column for column in columns if column not in header]
            if missing:
                parted = " Its fields are parted by something else than commas." * (len(header) == 1 < len(columns))
                have = ", ".join(header) or "none"
                raise RunError(f"{file} lacks the column {', '.join(missing)} (it has: {have}).{parted}")
            repeated = [column for column in columns if header.count(column) > 1]
            if repeated:
                raise RunError(f"{file} has the column {', '.join(repeated)} more than once.")
            for number, fields in enumerate((fields for fields in reader if fields), start=1):
                if len(fields) != len(header):
                    raise RunError(f"{file} row {number} has {len(fields)} fields, the header {len(header)}.")
                yield Row(f"{file} row {number}", dict(zip(header, fields, strict=True)))
    except FileNotFoundError:
        raise RunError(f"There is no {file}: put it there, or set dataset.path to the folder that holds it.") from None
    except UnicodeDecodeError:
        raise RunError(f"{file} is not UTF-8 near row {number + 1}: save it as 'CSV UTF-8'.") from None
    except OSError as error:
        raise RunError(f"{file} cannot be read ({error.strerror or error}).") from None
    except csv.Error as error:
        raise RunError(f"{file} row {number + 1} cannot be read as CSV ({error}).") from None
    if number == 0:
        raise RunError(f"{file} holds no rows.")


def _needed(text: str, key: str, where: str) -> str:
    if not text.strip():
        raise RunError(f"{where}: the field {key!r} is empty.")
    return text.encode("utf-8", "replace").decode()  # JSON can hold halves of characters


def _refuse_repeated(names: Iterator[tuple[str, str]], key: str) -> None:
    seen: dict[str, str] = {}
    for name, where in names:
        if name in seen:
            raise RunError(f"{where}: the {key} {name!r} stands already in {seen[name]}; every row needs its own.")
        seen[name] = where


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError as error:
        raise RunError(
            f"There is no {file} ({error.strerror}): dataset.path must be the folder that holds it."
        ) from None
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=64)
def _count(file: Path, _size: int, _mtime_ns: int) -> int:
    """A sweep asks for the number of rows of the same file for every job."""
    return sum(1 for _ in read_csv(file, ()))


@functools.lru_cache(maxsize=64)
def _content(file: Path, _size: int, _mtime_ns: int) -> str:
    return file_digest(file)
