import hashlib
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from statistics import fmean

import pytest
from dialogues_read_back import summary_of

from rtx_lab.core.errors import UsageError
from rtx_lab.data import dialogue_words
from rtx_lab.data import made_dialogues as module
from rtx_lab.data.dialogues import SPECIAL_TOKENS
from rtx_lab.data.made_dialogues import KINDS, dialogues
from rtx_lab.data.tokenizers import load_tokenizer
from rtx_lab.scoring.rouge import METRICS, lead, rouge, tokeniser

OWN = {"tokenizer": "dialogues"}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("RTX_LAB_CACHE", str(tmp_path_factory.getbasetemp() / "dialogues_cache"))


def made(split="train", number=800, **changes):
    return dialogues(**OWN, **{f"num_{split}": number}, **changes).sources[split].dialogues()


def test_the_shipped_file_is_what_the_code_makes():
    shipped = dialogue_words.ASSET / "tokenizer.json"
    assert shipped.read_text(encoding="utf-8") == dialogue_words.build().to_str()
    assert sum(path.stat().st_size for path in dialogue_words.ASSET.iterdir()) <= 100_000


def test_the_tokenizer_gives_any_text_back():
    tokenizer = load_tokenizer("dialogues")
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.start_id) == (0, 1, 2)
    texts = ["#Person1#: 안녕하세요?\n#Person2#: Hi, there!", " two  spaces\n", "漢字 \U0001f600 Ünïcödé", "", "\t\r\n"]
    texts += [row.dialogue for row in made(number=200)] + [row.references[0] for row in made(number=200)]
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_word_of_the_dialogues_is_one_token():
    tokenizer = load_tokenizer("dialogues").with_tokens(SPECIAL_TOKENS)
    pieces = tokenizer.backend.pre_tokenizer
    for row in made(number=300):
        for text in (row.dialogue, row.references[0]):
            plain = text
            for token in SPECIAL_TOKENS:
                plain = plain.replace(token, "\0")
            words = sum(len(pieces.pre_tokenize_str(part)) for part in plain.split("\0") if part)
            assert len(tokenizer.encode(text)) == words + plain.count("\0")


def test_a_dialogue_is_a_pure_function_of_its_number():
    assert made(number=50) == made(number=80)[:50]
    assert made(number=50) != made(number=50, data_seed=1)
    source = dialogues(**OWN).sources["train"]
    assert source.dialogue(40) == made(number=41)[40]


def test_the_dialogues_are_those_of_this_version():
    """When this fails on purpose, raise DIALOGUES_VERSION, or old caches go on being used."""
    assert module.DIALOGUES_VERSION == 1
    text = "\n\n".join(f"{row.dialogue}\n{row.references[0]}" for row in made("test", 200))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == GOLDEN


GOLDEN = "96e6fbb48953491d"


def test_dialogues_and_digests_are_the_same_in_another_process():
    code = (
        "from rtx_lab.data.made_dialogues import dialogues; d = dialogues(num_test=20, tokenizer='dialogues'); "
        "print(d.digest(), ascii(d.sources['test'].dialogues()))"
    )
    environment = {"PYTHONHASHSEED": "7", "PATH": ""}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    digest = dialogues(**OWN, num_test=20).digest()
    assert out.stdout.strip() == f"{digest} {made('test', 20)!a}"


def test_no_row_is_in_two_splits():
    sizes = {"train": 1500, "validation": 300, "test": 300}
    splits = [{row.dialogue for row in made(split, size)} for split, size in sizes.items()]
    assert all(len(split) > 0.99 * size for split, size in zip(splits, sizes.values(), strict=True))
    assert not splits[0] & splits[1]
    assert not splits[0] & splits[2]
    assert not splits[1] & splits[2]
    assert len({row.id for row in made(number=300)}) == 300


@pytest.mark.parametrize("language", ["english", "korean", "both"])
def test_a_summary_follows_from_its_dialogue(language):
    for row in made(number=600, language=language):
        assert summary_of(row.dialogue, row.language) == row.references[0], row.dialogue


def test_both_languages_all_kinds_and_all_special_tokens_occur():
    rows = made(number=1600)
    assert Counter(row.language for row in rows) == {"english": 800, "korean": 800}
    assert Counter(row.topic for row in rows) == dict.fromkeys(KINDS, 400)
    for token in SPECIAL_TOKENS:
        assert sum(token in row.dialogue for row in rows) >= 10, token
        assert sum(token in row.references[0] for row in rows) >= 10, token
    assert {row.language for row in made(number=10, language="korean")} == {"korean"}
    korean = "".join(row.dialogue for row in rows if row.language == "korean")
    assert not any(letter in korean for letter in "qwx")


def test_speakers_are_numbered_as_they_first_speak():
    for row in made(number=300):
        order = list(dict.fromkeys(line.partition(":")[0] for line in row.dialogue.split("\n")))
        assert order == list(dialogue_words.SPEAKERS[: len(order)])
        speakers = [line.partition(":")[0] for line in row.dialogue.split("\n")]
        assert all(one != other for one, other in pairwise(speakers))
    askers = Counter(row.references[0][:9] for row in made(number=1600, language="english") if row.topic == "details")
    assert min(askers["#Person1#"], askers["#Person2#"]) > 120


def test_the_first_turns_do_not_tell_the_summary():
    rows = made(number=600)
    cut = tokeniser("whitespace", SPECIAL_TOKENS)
    scores = [rouge(cut(lead(row.dialogue, 3)), [cut(row.references[0])]) for row in rows]
    assert fmean(sum(score.values()) / len(METRICS) for score in scores) < 0.35
    assert fmean(score["rouge2"] for score in scores) < 0.25
    known = Counter()
    for row in rows:
        first = set(cut(lead(row.dialogue, 3)))
        known[set(cut(row.references[0])) <= first] += 1
    assert known[True] < 6


def test_lengths_fit_and_differ():
    dataset = dialogues(**OWN, num_train=2000, num_validation=50, num_test=50)
    train = dataset.split("train")
    assert (train.num_cut_sources, train.num_cut_targets) == (0, 0)
    assert train.source_lengths.max() <= dataset.max_source_length
    assert train.target_lengths.max() + 1 <= dataset.max_target_length
    assert train.source_lengths.max() > 2 * train.source_lengths.min()
    turns = [train.record(row)["dialogue"].count("\n") + 1 for row in range(500)]
    assert min(turns) == 3
    assert 10 <= max(turns) <= 12


def test_wrong_settings_are_refused_together():
    with pytest.raises(UsageError) as caught:
        dialogues(**OWN, num_train=0, num_test=-3, language="german")
    assert len(caught.value.problems) == 3
