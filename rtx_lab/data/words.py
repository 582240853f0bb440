"""The closed vocabulary of the built-in data, and the tokenizer that is made from it.

`assets/words/tokenizer.json` is the output of `build`; a test makes it anew and compares every byte. Remake it with
`python -m rtx_lab.data.words` after changing the vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, END, UNKNOWN, START = "<pad>", "</s>", "<unk>", "<s>"


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words("al bo cy di ed fay gus hal ida jo kim lee mia ned oli pam quin ray sue tom uma vic wes zoe")
PLACES = _words(
    "bank cafe park zoo inn gym pub spa bar pier dock farm mill mine fort lake hill camp barn shop church school "
    "museum library"
)
THINGS = _words("apples pens cups books coins cards stamps shells")
GRAMMAR = _words(
    "is left right of where from honest lying calls are yes no above below who top has gets gives away more loses "
    "half times as many how now . ? #### + - * / ="
)
CONTINUED = "@"
DIGITS = tuple("0123456789")
ASSET = Path(__file__).parent / "assets" / "words"


def vocabulary() -> list[str]:
    """Every entry of the vocabulary in the order of its id, special entries first."""
    continued = [CONTINUED + digit for digit in DIGITS]
    return [PAD, END, UNKNOWN, START, *DIGITS, *continued, *GRAMMAR, *NAMES, *PLACES, *THINGS]


def build() -> Tokenizer:
    """Make the tokenizer: words apart by spaces, numbers by digits (`12` is `1`, `@2`), so that it decodes exactly."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    entries = vocabulary()
    if len(set(entries)) != len(entries):
        raise AssertionError("an entry stands twice in the vocabulary")
    model = models.WordPiece(
        vocab={entry: index for index, entry in enumerate(entries)},
        unk_token=UNKNOWN,
        continuing_subword_prefix=CONTINUED,
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUED, cleanup=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([PAD, END, UNKNOWN, START])
    return tokenizer


if __name__ == "__main__":
    ASSET.mkdir(parents=True, exist_ok=True)
    build().save(str(ASSET / "tokenizer.json"), pretty=True)
