"""Text of one's own: .txt, .jsonl (both plain or .gz), one file or a folder of them, read as a stream.

A document is a paragraph of a .txt file (paragraphs stand between empty lines; the lines of one are joined) or the
field `text` of a row of a .jsonl file. Files whose names begin with train, validation and test are the splits of a
folder. Otherwise a digest of its content tells the split of a document (18 : 1 : 1), so equal ones are never in two
splits and adding files moves none.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.data.reading import open_bytes, read_rows
from rtx_lab.data.segments import MASK_RATIOS, SegmentDataset
from rtx_lab.data.store import file_digest
from rtx_lab.data.text import SPLITS
from rtx_lab.data.tokenizers import BERT, BERT_ENTRIES, load_tokenizer

PLAIN_TEXT_VERSION = "plain text 1"
SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz")
NUM_PARTS = 20
PARTS = {"train": range(0, 18), "validation": range(18, 19), "test": range(19, 20)}
"""Which twentieths of all documents, told by a digest, belong to a split."""
LONGEST = 2**16
"""Characters of a paragraph; a longer one is cut at a space, so that no file needs more memory than another."""
BYTES_PER_TOKEN, BYTES_PER_DOCUMENT, GZIP_RATIO = 4.7, 600, 3
"""For the size of a text that is not opened: the first as counted on WikiText-2, the others rough."""


def text(
    *,
    path: str | None = None,
    tokenizer: str = BERT,
    vocab_size: int = BERT_ENTRIES,
    max_source_length: int = 128,
    packing: bool = True,
    mask_ratios: Sequence[float] = MASK_RATIOS,
    judge: str | None = None,
    num_validation: int | None = 256,
    num_test: int | None = 1024,
) -> SegmentDataset:
    """Any text: `path` is a file or a folder, with all folders in it."""
    if not path:
        raise UsageError("dataset=text reads files of your own: set dataset.path=<.txt or .jsonl file, or folder>.")
    place = Path(path).expanduser()
    return SegmentDataset(
        name="text",
        tokenizer=load_tokenizer(tokenizer),
        vocab_size=vocab_size,
        max_source_length=max_source_length,
        packing=packing,
        mask_ratios=tuple(mask_ratios),
        judge=judge,
        num_validation=num_validation,
        num_test=num_test,
        sources={split: PlainText(path=place, split=split) for split in SPLITS},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainText:
    """One split of a file or folder; only a folder can have files for the splits."""

    path: Path
    split: str

    def size(self) -> tuple[int, int]:
        """Estimated from the bytes of the files; one token where there are no such files on this machine."""
        try:
            files, share = self._files()
        except RunError:
            return 1, 1
        num_bytes = sum(file.stat().st_size * (GZIP_RATIO if file.suffix == ".gz" else 1) for file in files) * share
        return max(1, round(num_bytes / BYTES_PER_DOCUMENT)), max(1, round(num_bytes / BYTES_PER_TOKEN))

    def digest(self) -> str:
        files, share = self._files()
        parts = (PLAIN_TEXT_VERSION, self.split, str(share), *map(_content, files))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def documents(self) -> Iterator[str]:
        files, share = self._files()
        found = False
        for file in files:
            for document in documents_of(file):
                if share == 1 or part(document) in PARTS[self.split]:
                    found = True
                    yield document
        if not found:
            raise RunError(
                f"{self.path} has no document for the {self.split} split: add text, or name files "
                f"{', '.join(f'{name}.txt' for name in SPLITS)} and give their folder as dataset.path."
            )

    def _files(self) -> tuple[list[Path], float]:
        """The files to look through, and the share of their documents that belongs to this split."""
        files = text_files(self.path)
        named = {name: [file for file in files if _is_named(file, name)] for name in SPLITS}
        if self.path.is_file() or not any(named.values()):
            return files, len(PARTS[self.split]) / NUM_PARTS
        if not named[self.split]:
            raise RunError(
                f"{self.path} has files for {', '.join(name for name in SPLITS if named[name])} but none named "
                f"{self.split}: add it, or rename them all and let documents be split by their content."
            )
        return named[self.split], 1


def text_files(path: Path) -> list[Path]:
    """The text files of a folder in the order of their names, or the one file. Raises RunError when there are none."""
    if path.is_dir():
        files = (file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
        found = sorted(file for file in files if file.name.endswith(SUFFIXES))
        if not found:
            raise RunError(f"The folder {path} holds no {', '.join(SUFFIXES)} file.")
        return found
    if not path.exists():
        raise RunError(f"There is no file or folder {path}: set dataset.path to your text.")
    if not path.name.endswith(SUFFIXES):
        raise RunError(f"{path} is none of {', '.join(SUFFIXES)}: save it as one of these.")
    return [path]


def _is_named(file: Path, split: str) -> bool:
    """train.txt, train-00.jsonl.gz, train2.txt; not trainers.txt."""
    return re.match(rf"{split}(?![^\W\d_])", file.name) is not None


def part(document: str) -> int:
    """The twentieth (0 to 19) that a document belongs to by its content."""
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big") % NUM_PARTS


def documents_of(file: Path) -> Iterator[str]:
    """The documents of a file one by one. Raises RunError, naming the line, for bytes that are no text."""
    if ".jsonl" in file.suffixes:
        rows = (row.text("text").strip() for row in read_rows(file))
        found = (text.encode("utf-8", "replace").decode() for text in rows)  # JSON can hold halves of characters
    else:
        found = paragraphs(file)
    return (document for document in found if document)


def paragraphs(file: Path) -> Iterator[str]:
    """What stands between empty lines, white space of any length as one space."""
    held = ""
    for piece in _pieces(file):
        held += piece
        if not piece.strip() and piece.endswith("\n"):
            yield " ".join(held.split())
            held = ""
        elif len(held) >= LONGEST:
            cut = max(held.rfind(" "), held.rfind("\n")) + 1 or len(held)
            yield " ".join(held[:cut].split())
            held = held[cut:]
    yield " ".join(held.split())


def _pieces(file: Path) -> Iterator[str]:
    """A file by lines, a line of more than `LONGEST` bytes in pieces."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    number = 1
    try:
        with open_bytes(file) as lines:
            while piece := lines.readline(LONGEST):
                yield decoder.decode(piece)
                number += piece.endswith(b"\n")
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise RunError(f"{file}:{number} is not UTF-8 ({error.reason}): save the file as UTF-8.") from None
    except OSError as error:
        raise RunError(f"{file} cannot be read ({error.strerror or error}).") from None


def _content(file: Path) -> str:
    try:
        status = file.stat()
        return _content_at(file.absolute(), status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise RunError(f"{file} cannot be read ({error.strerror or error}).") from None


@lru_cache(maxsize=4096)
def _content_at(file: Path, _size: int, _mtime_ns: int) -> str:
    """A run asks several times for the digest of a large text that stays as it is."""
    return file_digest(file)
