"""Text to token ids and back, from the shipped vocabulary, a local folder or the hub."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtx_lab.core.errors import RunError
from rtx_lab.data import words

SHIPPED = "words"
FILES = ("tokenizer.json", "tokenizer_config.json")
LOCAL_FOLDERS = {
    "google-t5/t5-small": "t5",
    "google-t5/t5-base": "t5",
    "google-t5/t5-large": "t5",
    "t5-small": "t5",
    "t5-base": "t5",
    "t5-large": "t5",
}
"""Hub ids whose folder under RTX_LAB_TOKENIZERS is not called like the last part of the id (all T5 sizes share one)."""
REVISIONS = {"google-t5/t5-base": "a9723ea7f1b39c1eae772870f3b547bf6ef7e6c1"}
"""Pinned commits, as several public projects pin them; other ids follow their main branch."""


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A tokenizer without opinions: `encode` adds no special ids.

    `vocab_size` is one more than the largest id that plain text or the special ids below can produce: 32000 for T5,
    whose 100 sentinels never occur in text.
    """

    name: str
    backend: Any
    pad_id: int
    start_id: int
    eos_id: int
    vocab_size: int
    digest: str

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without start or end."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts at once, on all cores."""
        # Named so that a loader worker forked later neither warns nor waits for a thread pool it does not have.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        return [one.ids for one in self.backend.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special ids left out."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=True)

    def decode_answer(self, ids: Sequence[int]) -> str:
        """The text of a written answer: what stands before the first end token, or all of it."""
        own = [int(i) for i in ids]
        return self.decode(own[: own.index(self.eos_id)] if self.eos_id in own else own)


def load_tokenizer(name: str) -> Tokenizer:
    """Load `words` (shipped), a folder, or a hub id, which `RTX_LAB_TOKENIZERS` may hold as a folder.

    Raises RunError, with both ways out, when it is neither here nor to be had, or when its files are broken.
    """
    folder = _local_folder(name)
    if folder is None:
        return _read(name, *_download(name))
    definition = folder / "tokenizer.json"
    if definition.is_file():
        return _read(name, definition, folder / "tokenizer_config.json")
    return _convert(name, folder)


def _local_folder(name: str) -> Path | None:
    if name == SHIPPED:
        return words.ASSET
    if Path(name).is_dir():
        return Path(name)
    root = os.environ.get("RTX_LAB_TOKENIZERS")
    if not root:
        return None
    for candidate in (LOCAL_FOLDERS.get(name, name), name.rsplit("/", 1)[-1]):
        if (Path(root) / candidate).is_dir():
            return Path(root) / candidate
    return None


def _download(name: str) -> tuple[Path, Path]:
    from rtx_lab.data.hub import fetch

    advice = "RTX_LAB_TOKENIZERS=<folder that holds it>"
    revision = REVISIONS.get(name, "main")
    files = [fetch(name, file, kind="model", revision=revision, advice=advice) for file in FILES]
    return files[0], files[1]


def _read(name: str, definition: Path, config: Path) -> Tokenizer:
    from tokenizers import Tokenizer as Backend

    try:
        data = definition.read_bytes()
        backend = Backend.from_str(data.decode("utf-8"))
        specials = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    except Exception as error:  # the tokenizers library raises plain Exception
        raise RunError(f"The tokenizer {definition} cannot be read ({error}).") from None
    return _finish(name, backend, specials, data)


def _convert(name: str, folder: Path) -> Tokenizer:
    """Read a folder without tokenizer.json (vocab.txt, merges.txt, ...) through transformers."""
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        backend = loaded.backend_tokenizer
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(f"The tokenizer folder {folder} cannot be read ({reason}).") from None
    specials = {key: getattr(loaded, key) for key in ("bos_token", "cls_token", "eos_token", "sep_token", "pad_token")}
    return _finish(name, backend, specials, backend.to_str().encode("utf-8"))


def _finish(name: str, backend: Any, specials: dict[str, Any], data: bytes) -> Tokenizer:
    ids = {key: _special_id(backend, specials.get(f"{key}_token")) for key in ("pad", "bos", "cls", "eos", "sep")}
    end = ids["eos"] if ids["eos"] is not None else ids["sep"]
    pad = ids["pad"] if ids["pad"] is not None else end
    if pad is None or end is None:
        raise RunError(f"The tokenizer {name} names no padding or end token, which every batch needs.")
    begin = ids["bos"] if ids["bos"] is not None else ids["cls"]
    start = begin if begin is not None else pad  # T5 starts with its pad id
    backend.no_truncation()
    backend.no_padding()
    added = backend.get_added_tokens_decoder()
    plain = (index for index in backend.get_vocab().values() if index not in added or not added[index].special)
    digest = hashlib.sha256(data + f"{pad} {start} {end}".encode()).hexdigest()
    return Tokenizer(name, backend, pad, start, end, 1 + max(*plain, pad, start, end), digest)


def _special_id(backend: Any, token: Any) -> int | None:
    text = token.get("content") if isinstance(token, dict) else token
    return backend.token_to_id(text) if text else None
