"""Text to token ids and back, from the shipped vocabulary, a local folder or the hub."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.data import chat_templates, dialogue_words, story_words, wordpiece, words

SHIPPED = "words"
SHIPPED_FOLDERS = {SHIPPED: words.ASSET, "stories": story_words.ASSET, "dialogues": dialogue_words.ASSET}
STAND_IN = "no words"
"""The name of a tokenizer that knows special tokens only: for what needs a dataset's lengths but none of its text."""
FILES = ("tokenizer.json", "tokenizer_config.json")
SENTENCEPIECE_FILES = ("spiece.model", "tokenizer_config.json")
LOCAL_FOLDERS = {
    "google-t5/t5-small": "t5",
    "google-t5/t5-base": "t5",
    "google-t5/t5-large": "t5",
    "t5-small": "t5",
    "t5-base": "t5",
    "t5-large": "t5",
    "digit82/kobart-summarization": "kobart",
    "gogamza/kobart-base-v1": "kobart",
    "gogamza/kobart-base-v2": "kobart",
    "gogamza/kobart-summarization": "kobart",
    "hyunwoongko/kobart": "kobart",
}
"""Hub ids whose folder under RTX_LAB_TOKENIZERS is not called like the last part of the id (sizes share one)."""
ROLES = ("pad", "bos", "cls", "eos", "sep", "mask")
KOBART = "model.json"
"""The file that KoBART's tokenizer was published as: a tokenizer.json of 2020 that names no roles."""
KOBART_ROLES = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}
BERT = "google-bert/bert-base-uncased"
BERT_ENTRIES = 30522
REVISIONS = {
    "google-t5/t5-base": "a9723ea7f1b39c1eae772870f3b547bf6ef7e6c1",
    BERT: "86b5e0934494bd15c9632b12f734a8a67f723594",
}
"""Pinned commits, as several public projects pin them; other ids follow their main branch."""


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A tokenizer without opinions: `encode` adds no special ids.

    `vocab_size` is one more than the largest id that plain text or the special ids below can produce: 32000 for T5,
    whose 100 sentinels never occur in text. `mask_id` is None where there is no mask token. Of BERT's special tokens
    [CLS] is the start and [SEP] the end. `chat_template` is the Jinja text that writes a conversation for the model,
    None where the tokenizer has none; `digest` does not tell of it.
    """

    name: str
    backend: Any
    pad_id: int
    start_id: int
    eos_id: int
    vocab_size: int
    digest: str
    mask_id: int | None = None
    special_ids: frozenset[int] = frozenset()
    chat_template: str | None = None

    def with_tokens(self, texts: Sequence[str]) -> Tokenizer:
        """A copy to which each of these texts is one special token; what was one before keeps its id.

        New ids follow the last one, as in transformers (T5: 32100, after its sentinels). Raises UsageError for an
        empty text or one that is named twice.
        """
        wrong = [repr(text) for text in texts if not text.strip() or list(texts).count(text) > 1]
        if wrong:
            raise UsageError(f"Special tokens must be different texts, none empty: not {', '.join(wrong)}.")
        if not texts:
            return self
        backend = copy.deepcopy(self.backend)
        backend.add_special_tokens(list(texts))
        ids = {backend.token_to_id(text) for text in texts}
        digest = hashlib.sha256(json.dumps([self.digest, *texts]).encode()).hexdigest()
        return replace(
            self,
            backend=backend,
            vocab_size=max(self.vocab_size, *(index + 1 for index in ids)),
            digest=digest,
            special_ids=self.special_ids | ids,
        )

    def framed(self) -> Tokenizer:
        """A copy that puts start and end around a text where its own post-processor adds neither (KoBART, ours).

        The start only if there is one apart from padding and end. What is exported then does so too.
        """
        if self.backend.num_special_tokens_to_add(False):
            return self
        from tokenizers.processors import TemplateProcessing

        ids = [self.eos_id] if self.start_id in (self.pad_id, self.eos_id) else [self.start_id, self.eos_id]
        tokens = [self.backend.id_to_token(index) for index in ids]
        backend = copy.deepcopy(self.backend)
        backend.post_processor = TemplateProcessing(
            single=[*tokens[:-1], "$A", tokens[-1]], special_tokens=list(zip(tokens, ids, strict=True))
        )
        return replace(self, backend=backend)

    def frame(self) -> tuple[list[int], list[int]]:
        """The ids that the post-processor puts before and after a text (T5: none and </s>)."""
        probe = self.backend.encode("a")  # tells before from after
        mask = probe.special_tokens_mask
        if 0 not in mask:
            return probe.ids[:-1], probe.ids[-1:]
        first, last = mask.index(0), len(mask) - mask[::-1].index(0)
        return probe.ids[:first], probe.ids[last:]

    def literal(self) -> Tokenizer:
        """A copy to which `[MASK]` and the like in a text are ordinary characters: for documents, not for prompts."""
        backend = copy.deepcopy(self.backend)
        backend.encode_special_tokens = True
        return replace(self, backend=backend)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without start or end."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts at once, on all cores."""
        # Named so that a loader worker forked later neither warns nor waits for a thread pool it does not have.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        return [one.ids for one in self.backend.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int], keep: Collection[int] = ()) -> str:
        """The text of ids, special ids left out; those in `keep` stay, as the speakers of a dialogue."""
        left_out = self.special_ids.difference(keep)
        own = [index for index in map(int, ids) if index not in left_out]
        return self.backend.decode(own, skip_special_tokens=not keep)

    def decode_answer(self, ids: Sequence[int], keep: Collection[int] = ()) -> str:
        """The text of a written answer: what stands before the first end token, or all of it."""
        own = [int(i) for i in ids]
        return self.decode(own[: own.index(self.eos_id)] if self.eos_id in own else own, keep)


def load_tokenizer(name: str) -> Tokenizer:
    """Load `words`, `stories` or `dialogues` (shipped), a folder, or a hub id, which `RTX_LAB_TOKENIZERS` may hold.

    A folder that holds vocab.txt alone is read as BERT's uncased WordPiece, one with model.json as KoBART's.
    Raises RunError, with both ways out, when it is neither here nor to be had, or when its files are broken.
    """
    if name == STAND_IN:
        return _special_tokens_only()
    folder = _local_folder(name)
    if folder is None:
        return _from_hub(name)
    tokenizer = _from_folder(name, folder)
    template = chat_templates.read_chat_template(folder / chat_templates.CONFIG_FILE, folder / chat_templates.FILE)
    return replace(tokenizer, chat_template=template)


def _from_folder(name: str, folder: Path) -> Tokenizer:
    definition = folder / "tokenizer.json"
    if definition.is_file():
        return _read(name, definition, folder / "tokenizer_config.json")
    if (folder / KOBART).is_file():
        return _read_kobart(name, folder / KOBART)
    if [path.name for path in folder.iterdir() if path.suffix in (".json", ".txt", ".model")] == ["vocab.txt"]:
        return _read_wordpiece(name, folder / "vocab.txt")
    return _convert(name, folder)


def _local_folder(name: str) -> Path | None:
    if name in SHIPPED_FOLDERS:
        return SHIPPED_FOLDERS[name]
    if Path(name).is_dir():
        return Path(name)
    root = os.environ.get("RTX_LAB_TOKENIZERS")
    if not root:
        return None
    for candidate in (LOCAL_FOLDERS.get(name, name), name.rsplit("/", 1)[-1]):
        if (Path(root) / candidate).is_dir():
            return Path(root) / candidate
    return None


def _from_hub(name: str) -> Tokenizer:
    """Read tokenizer.json of a hub id or, where there is none (mT5's multilingual summariser), its sentencepiece."""
    try:
        definition, config = _fetch(name, FILES)
        tokenizer = _read(name, definition, config)
    except RunError as error:
        try:
            vocabulary, config = _fetch(name, SENTENCEPIECE_FILES)
        except RunError:
            raise error from None
        tokenizer = _convert(name, vocabulary.parent)
    return replace(tokenizer, chat_template=chat_templates.read_chat_template(config, _hub_chat_template(name)))


def _hub_chat_template(name: str) -> Path | None:
    """The file of its own that newer models keep their template in; most tokenizers have none."""
    try:
        return _fetch(name, (chat_templates.FILE,))[0]
    except RunError:
        return None


def _fetch(name: str, files: Sequence[str]) -> list[Path]:
    from rtx_lab.data.hub import fetch

    advice = "RTX_LAB_TOKENIZERS=<folder that holds it>"
    revision = REVISIONS.get(name, "main")
    return [fetch(name, file, kind="model", revision=revision, advice=advice) for file in files]


def _read(name: str, definition: Path, config: Path) -> Tokenizer:
    backend, data = _open(definition)
    try:
        specials = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    except (OSError, ValueError) as error:
        raise RunError(f"The tokenizer {config} cannot be read ({error}).") from None
    return _finish(name, backend, specials, data)


def _read_kobart(name: str, definition: Path) -> Tokenizer:
    backend, data = _open(definition)
    missing = [token for token in KOBART_ROLES.values() if backend.token_to_id(token) is None]
    if missing:
        raise RunError(f"The tokenizer {definition} lacks {', '.join(missing)}: it is not KoBART's.")
    return _finish(name, backend, dict(KOBART_ROLES), data)


def _open(definition: Path) -> tuple[Any, bytes]:
    from tokenizers import Tokenizer as Backend

    try:
        data = definition.read_bytes()
        return Backend.from_str(data.decode("utf-8")), data
    except Exception as error:  # the tokenizers library raises plain Exception
        raise RunError(f"The tokenizer {definition} cannot be read ({error}).") from None


def _read_wordpiece(name: str, vocabulary: Path) -> Tokenizer:
    backend, data = wordpiece.read_wordpiece(vocabulary)
    return _finish(name, backend, {}, data)


def _special_tokens_only() -> Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    entries = list(wordpiece.SPECIALS.values())
    backend = Backend(models.WordLevel({entry: index for index, entry in enumerate(entries)}, unk_token="[UNK]"))
    backend.add_special_tokens(entries)
    return _finish(STAND_IN, backend, {}, b"")


def _convert(name: str, folder: Path) -> Tokenizer:
    """Read a folder without tokenizer.json (vocab.txt, merges.txt, ...) through transformers."""
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        backend = loaded.backend_tokenizer
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(f"The tokenizer folder {folder} cannot be read ({reason}).") from None
    specials = {f"{role}_token": getattr(loaded, f"{role}_token") for role in ROLES}
    return _finish(name, backend, specials, backend.to_str().encode("utf-8"))


def _finish(name: str, backend: Any, specials: dict[str, Any], data: bytes) -> Tokenizer:
    # BERT's own tokenizer_config.json names no token for a role, so its tokens are looked for where none is named.
    names = {role: specials.get(f"{role}_token") or wordpiece.SPECIALS.get(role) for role in ROLES}
    ids = {role: _special_id(backend, token) for role, token in names.items()}
    end = ids["eos"] if ids["eos"] is not None else ids["sep"]
    pad = ids["pad"] if ids["pad"] is not None else end
    if pad is None or end is None:
        raise RunError(f"The tokenizer {name} names no padding or end token, which every batch needs.")
    begin = ids["bos"] if ids["bos"] is not None else ids["cls"]
    start = begin if begin is not None else pad  # T5 starts with its pad id
    backend.no_truncation()
    backend.no_padding()
    added = backend.get_added_tokens_decoder()
    special = frozenset(index for index, token in added.items() if token.special)
    plain = (index for index in backend.get_vocab().values() if index not in special)
    known = [index for index in (pad, start, end, ids["mask"]) if index is not None]
    digest = hashlib.sha256(data + f"{pad} {start} {end}".encode()).hexdigest()
    return Tokenizer(name, backend, pad, start, end, 1 + max(*plain, *known), digest, ids["mask"], special)


def _special_id(backend: Any, token: Any) -> int | None:
    text = token.get("content") if isinstance(token, dict) else token
    return backend.token_to_id(text) if text else None
