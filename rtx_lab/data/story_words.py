"""The closed vocabulary of the built-in stories, and the tokenizer that is made from it.

`assets/stories/tokenizer.json` is the output of `build`; a test makes it anew and compares every byte. Remake it with
`python -m rtx_lab.data.story_words` after changing the vocabulary.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, UNKNOWN, START, END, MASK = SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


BOYS = _words("ben finn hugo jack leo max sam tom")
GIRLS = _words("anna ella lily mia nora rose ruby zoe")
KINDS = {
    "bear": ("cave", "honey"), "cat": ("attic", "fish"), "dog": ("kennel", "bones"), "duck": ("nest", "bread"),
    "fox": ("den", "grapes"), "frog": ("pond", "flies"), "goat": ("barn", "hay"), "mouse": ("hole", "cheese"),
    "owl": ("tower", "berries"), "pig": ("sty", "corn"), "rabbit": ("burrow", "carrots"), "squirrel": ("oak", "nuts"),
}  # fmt: skip
"""Kind of animal -> its home and its food."""
THINGS = {
    "ball": ("rolled under a gate", "broom", "pushed {it} out with {tool}"),
    "basket": ("fell into a well", "rope", "pulled {it} up with {tool}"),
    "boat": ("filled with water", "bucket", "emptied {it} with {tool}"),
    "book": ("got wet", "towel", "dried {it} with {tool}"),
    "box": ("would not open", "key", "opened {it} with {tool}"),
    "cart": ("lost a wheel", "hammer", "fixed {it} with {tool}"),
    "coat": ("tore on a thorn", "needle", "sewed {it} with {tool}"),
    "flute": ("was full of sand", "feather", "cleared {it} with {tool}"),
    "hat": ("fell into the mud", "brush", "cleaned {it} with {tool}"),
    "kite": ("got stuck in a tree", "ladder", "climbed {tool} and took {it} down"),
    "lamp": ("went out", "match", "lit {it} with {tool}"),
    "ring": ("slipped into a crack", "hook", "lifted {it} out with {tool}"),
}
"""What is carried through a story -> what goes wrong with it, the tool that helps, and how."""
PLACES = {
    "in": _words("forest garden meadow valley village"),
    "by": _words("lake mill river sea"),
    "on": _words("beach bridge hill"),
    "at": _words("fair market school"),
}
"""Places by the word that stands before them."""
ADJECTIVES = _words("brave clever gentle kind lazy little old proud quiet shy")
COLOURS = _words("black blue brown green grey red white yellow")
WEATHERS = _words("cold foggy rainy snowy sunny warm windy")
TIMES = _words("afternoon day evening morning")
UNHAPPY = _words("afraid angry sad sorry upset worried")
HAPPY = _words("calm cheerful glad happy merry pleased")
PASTIMES = _words("danced laughed played rested sang talked")
GRAMMAR = _words(
    ". , a again an and ate away began belongs brought but came carried cry friend gave had he her him his home it "
    "liked lived met named now once one saw she so some soon thank that the then there they to together took was went "
    "who"
)
ASSET = Path(__file__).parent / "assets" / "stories"


def vocabulary() -> list[str]:
    """Every entry of the vocabulary in the order of its id: special entries, then all words by the alphabet."""
    tables = (KINDS, THINGS, PLACES, BOYS, GIRLS, ADJECTIVES, COLOURS, WEATHERS, TIMES)
    texts = [" ".join(table) for table in (*tables, UNHAPPY, HAPPY, PASTIMES, GRAMMAR)]
    texts += [" ".join(row) for table in (KINDS, THINGS, PLACES) for row in table.values()]
    words = {word for text in texts for word in text.split() if "{" not in word}
    return [*SPECIALS, *sorted(words)]


def build() -> Tokenizer:
    """Make the tokenizer: words and punctuation apart by spaces, so that it decodes exactly; typed text is lowered."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    vocab = {entry: index for index, entry in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


if __name__ == "__main__":
    ASSET.mkdir(parents=True, exist_ok=True)
    build().save(str(ASSET / "tokenizer.json"), pretty=True)
    roles = {"cls_token": START, "mask_token": MASK, "pad_token": PAD, "sep_token": END, "unk_token": UNKNOWN}
    (ASSET / "tokenizer_config.json").write_text(json.dumps(roles, indent=2) + "\n", encoding="utf-8")
