"""A folder in the form of SST-2's, of sentences in the words of the stories whose mood tells the label."""

import json

from rtx_lab.data.stories import STORY_ENTRIES
from rtx_lab.data.story_words import BOYS, GIRLS, HAPPY, KINDS, TIMES, UNHAPPY


def sentence(number):
    """Row `number`: a sentence of 4 to 15 words, and 1 (positive) where its mood is a happy one."""
    label = number * 7 // 3 % 2
    mood = (UNHAPPY, HAPPY)[label][number % 6]
    name, kind = (BOYS + GIRLS)[number % 16], list(KINDS)[number * 5 % 12]
    text = (
        f"{name} was {mood} .",
        f"one {TIMES[number % 4]} {name} the {kind} was {mood} and went home .",
        f"the {kind} named {name} was {mood} once again , so she sang .",
    )[number % 3]
    return {"idx": number, "sentence": text, "label": label}


def write_sst2(folder, train=120, test=32):
    """Write `folder`/sst2/; return the arguments of `sst2_texts` beside `splits` that read it without a network."""
    place = folder / "sst2"
    place.mkdir(parents=True)
    for name, numbers in (("train", range(train)), ("validation", range(train, train + test))):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(sentence(number)) + "\n" for number in numbers))
    rows = {"train": train, "test": test}
    return {"path": str(folder), "rows": rows, "tokenizer": "stories", "vocab_size": STORY_ENTRIES}
