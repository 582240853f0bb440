import hashlib
import itertools
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from rtx_lab.core.errors import UsageError
from rtx_lab.data import stories as module
from rtx_lab.data import story_words
from rtx_lab.data.stories import stories
from rtx_lab.data.tokenizers import load_tokenizer

SMALL = {"num_train": 1500, "num_validation": 150, "num_test": 300}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("RTX_LAB_CACHE", str(tmp_path_factory.getbasetemp() / "stories_cache"))


def told(split="train", number=1500, **changes):
    sizes = {f"num_{split}": number}
    return list(stories(**sizes, **changes).sources[split].documents())


def test_the_shipped_file_is_what_the_code_makes():
    assert (story_words.ASSET / "tokenizer.json").read_text(encoding="utf-8") == story_words.build().to_str(pretty=True)


def test_the_vocabulary_is_closed_and_every_word_is_used():
    tokenizer = load_tokenizer("stories")
    assert [tokenizer.pad_id, tokenizer.start_id, tokenizer.eos_id, tokenizer.mask_id] == [0, 2, 3, 4]
    entries = story_words.vocabulary()
    assert tokenizer.vocab_size == len(entries) == len(set(entries)) == 236
    used = {word for text in told() for word in text.split()}
    assert used == set(entries) - set(story_words.SPECIALS)


def test_stories_decode_exactly():
    tokenizer = load_tokenizer("stories")
    for text in told(number=300):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert len(ids) == len(text.split())
    assert tokenizer.encode("The [MASK] fox.") == tokenizer.encode("the [MASK] fox .")
    assert tokenizer.encode("the [MASK] fox")[1] == tokenizer.mask_id


def test_no_story_is_in_two_splits():
    train, validation, test = (set(told(split, 3000)) for split in ("train", "validation", "test"))
    assert [len(found) for found in (train, validation, test)] == [3000] * 3
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_a_story_is_a_pure_function_of_its_number():
    assert told(number=50) == told(number=80)[:50]
    assert told(number=50) != told(number=50, data_seed=1)
    source = stories(num_train=3).sources["train"]
    assert source.story(40) == told(number=41)[40]


def test_the_stories_are_those_of_this_version():
    """When this fails on purpose, raise STORIES_VERSION, or old caches go on being used; count MEAN_TOKENS anew."""
    assert module.STORIES_VERSION == 1
    assert hashlib.sha256("\n".join(told("test", 200)).encode()).hexdigest()[:16] == GOLDEN


GOLDEN = "da378d4e4b678055"


def test_stories_and_digests_are_the_same_in_another_process():
    code = (
        "from rtx_lab.data.stories import stories; d = stories(num_test=20); "
        "print(d.digest(), list(d.sources['test'].documents()))"
    )
    environment = {"PYTHONHASHSEED": "7", "PATH": ""}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert out.stdout.strip() == f"{stories(num_test=20).digest()} {told('test', 20)}"


def test_sizes_are_told_beforehand():
    texts = told(number=5000)
    lengths = [len(text.split()) for text in texts]
    assert np.mean(lengths) == pytest.approx(module.MEAN_TOKENS, rel=0.01)
    assert min(lengths) >= 26
    assert max(lengths) <= 83
    assert set(Counter(text.count(" .") for text in texts)) == {3, 4, 5, 6}
    for packing in (True, False):
        dataset = stories(**SMALL, packing=packing)
        for split in ("train", "validation", "test"):
            assert len(dataset.split(split)) == pytest.approx(dataset.num_rows(split), rel=0.05)


def test_what_belongs_together_stands_together():
    for text in told(number=600):
        found = text.split()
        names = [word for word in found if word in story_words.BOYS + story_words.GIRLS]
        boys = set(names) & set(story_words.BOYS)
        pronouns = set(found) & {"he", "him", "his", "she", "her"}
        assert len(set(names)) == 2
        assert boys or not pronouns & {"he", "him", "his"}
        assert len(boys) < 2 or not pronouns & {"she", "her"}
        things = [thing for thing in story_words.THINGS if thing in found]
        for thing in things:
            problem, tool, _ = story_words.THINGS[thing]
            assert problem in text
            assert tool in found
        assert len(things) == 1
        places = {place: before for before, row in story_words.PLACES.items() for place in row if place in found}
        assert len(places) == 1 or not places
        colours = set(found) & set(story_words.COLOURS)
        assert len(colours) == 1
        for article, word in itertools.pairwise(found):
            if article in ("a", "an"):
                assert (word[0] in "aeiou") == (article == "an"), text


def test_the_best_single_guess_is_right_one_time_in_ten():
    counts = stories(**SMALL).split("train").unigram()
    assert 0.08 < counts.max() / counts.sum() < 0.12


def test_the_context_decides_words_and_some_are_free():
    """The colour of a thing is known from its other mention; the weather is not known from anything."""
    texts = told(number=3000)
    twice = [text for text in texts if sum(word in story_words.COLOURS for word in text.split()) > 1]
    assert len(twice) > 0.3 * len(texts)
    weathers = Counter(word for text in texts for word in text.split() if word in story_words.WEATHERS)
    assert max(weathers.values()) < 1.4 * min(weathers.values())


def test_wrong_sizes_are_refused_together():
    with pytest.raises(UsageError) as caught:
        stories(num_train=0, num_test=-3)
    assert len(caught.value.problems) == 2
    with pytest.raises(UsageError, match="max_source_length must be at least 8"):
        stories(max_source_length=3)
