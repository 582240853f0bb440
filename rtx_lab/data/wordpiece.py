"""BERT's uncased tokenizer from its list of entries alone, as its oldest folders hold it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rtx_lab.core.errors import RunError

SPECIALS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
"""BERT's special tokens by role."""


def read_wordpiece(vocabulary: Path) -> tuple[Any, bytes]:
    """Build the tokenizer of a vocab.txt, one entry a line, as transformers does, and what its digest is made of.

    Raises RunError for a file that cannot be read or is no vocabulary of BERT.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    try:
        data = vocabulary.read_bytes()
        lines = data.decode("utf-8").split("\n")  # some entries are what splitlines() would take for a line's end
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"The tokenizer {vocabulary} cannot be read ({error}).") from None
    entries = {line.removesuffix("\r"): index for index, line in enumerate(lines) if line.removesuffix("\r")}
    missing = [token for token in SPECIALS.values() if token not in entries]
    if missing:
        raise RunError(f"The tokenizer {vocabulary} lacks {', '.join(missing)}: it is no vocabulary of BERT.")
    backend = Backend(models.WordPiece(vocab=entries, unk_token=SPECIALS["unk"], max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)  # pyright: ignore[reportAttributeAccessIssue]
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # pyright: ignore[reportAttributeAccessIssue]
    backend.decoder = decoders.WordPiece(prefix="##")  # pyright: ignore[reportAttributeAccessIssue]
    backend.add_special_tokens(list(SPECIALS.values()))
    return backend, b"uncased WordPiece\n" + data
