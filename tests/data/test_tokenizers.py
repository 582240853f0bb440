import json
import os
import pickle
from pathlib import Path

import pytest

from rtx_lab.core.errors import RunError
from rtx_lab.data import story_words, words
from rtx_lab.data.tokenizers import STAND_IN, load_tokenizer

needs_t5 = pytest.mark.skipif(not os.environ.get("RTX_LAB_TOKENIZERS"), reason="RTX_LAB_TOKENIZERS is not set")


def test_the_shipped_file_is_what_the_code_makes():
    assert (words.ASSET / "tokenizer.json").read_text(encoding="utf-8") == words.build().to_str(pretty=True)


def test_special_ids_stand_first_and_are_four():
    tokenizer = load_tokenizer("words")
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.start_id) == (0, 1, 3)
    assert tokenizer.vocab_size == len(words.vocabulary()) == 1 + max(tokenizer.backend.get_vocab().values())


def test_numbers_are_digits_one_by_one_and_decode_exactly():
    tokenizer = load_tokenizer("words")
    for number in (0, 7, 10, 99, 305, 8888):
        assert len(tokenizer.encode(str(number))) == len(str(number))
        assert tokenizer.decode(tokenizer.encode(f"{number} + 12 = {number} . #### {number}")) == (
            f"{number} + 12 = {number} . #### {number}"
        )


def test_an_answer_ends_before_its_first_end_token():
    tokenizer = load_tokenizer("words")
    ids = tokenizer.encode("12")
    assert tokenizer.decode_answer([*ids, tokenizer.eos_id, *ids, tokenizer.eos_id]) == "12"
    assert tokenizer.decode_answer(ids) == "12"
    assert tokenizer.decode_answer([tokenizer.eos_id, *ids]) == ""


def test_every_word_is_known_and_decodes_to_itself():
    tokenizer = load_tokenizer("words")
    unknown = tokenizer.encode("unheard")[0]
    for word in (*words.GRAMMAR, *words.NAMES, *words.PLACES, *words.THINGS, *words.DIGITS):
        assert len(tokenizer.encode(word)) == 1
        assert tokenizer.encode(word) != [unknown]
        assert tokenizer.decode(tokenizer.encode(word)) == word


def test_batches_encode_as_single_texts_do_and_tokenizers_pickle():
    tokenizer = load_tokenizer("words")
    texts = ["al above bo . who is top ?", "", "7 + 12 = 19"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    assert pickle.loads(pickle.dumps(tokenizer)).encode(texts[0]) == tokenizer.encode(texts[0])


@needs_t5
@pytest.mark.parametrize("name", ["google-t5/t5-base", "t5", "t5-base"])
def test_t5_from_a_local_folder(name):
    tokenizer = load_tokenizer(name)
    assert (tokenizer.pad_id, tokenizer.start_id, tokenizer.eos_id) == (0, 0, 1)
    assert tokenizer.vocab_size == 32000
    assert tokenizer.encode("A small test.") == [71, 422, 794, 5]
    assert tokenizer.decode(tokenizer.encode("#### 1,234 apples")) == "#### 1,234 apples"


@needs_t5
def test_a_local_folder_without_tokenizer_json():
    tokenizer = load_tokenizer("qwen2")
    assert (tokenizer.pad_id, tokenizer.eos_id) == (151643, 151645)
    assert tokenizer.decode(tokenizer.encode("hello world")) == "hello world"


def test_what_knows_no_mask_says_so():
    assert load_tokenizer("words").mask_id is None
    assert load_tokenizer("stories").mask_id == 4


def test_the_stand_in_knows_special_tokens_only():
    tokenizer = load_tokenizer(STAND_IN)
    ids = (tokenizer.pad_id, tokenizer.start_id, tokenizer.eos_id, tokenizer.mask_id)
    assert ids == (0, 2, 3, 4)
    assert tokenizer.vocab_size == 5
    assert tokenizer.encode("anything") == [1]


@needs_t5
@pytest.mark.parametrize("name", ["google-bert/bert-base-uncased", "bert-base-uncased"])
def test_bert_from_its_vocabulary_alone(name):
    tokenizer = load_tokenizer(name)
    assert (tokenizer.pad_id, tokenizer.start_id, tokenizer.eos_id, tokenizer.mask_id) == (0, 101, 102, 103)
    assert tokenizer.vocab_size == 30522
    assert tokenizer.encode("The Fox's r\u00e9sum\u00e9, unheardofness!") == [
        1996, 4419, 1005, 1055, 13746, 1010, 4895, 26362, 11253, 2791, 999,
    ]  # fmt: skip
    assert tokenizer.encode("the [MASK] fox") == [1996, 103, 4419]
    assert tokenizer.literal().encode("the [MASK] fox") == [1996, 1031, 7308, 1033, 4419]
    assert tokenizer.encode("[MASK]") == [103]  # the copy left the original as it was
    assert tokenizer.decode([101, *tokenizer.encode("unheardofness"), 102]) == "unheardofness"


@needs_t5
def test_bert_is_what_transformers_makes_of_it(tmp_path):
    from transformers import AutoTokenizer

    own = load_tokenizer("bert-base-uncased")
    vocabulary = Path(os.environ["RTX_LAB_TOKENIZERS"]) / "bert-base-uncased" / "vocab.txt"
    (tmp_path / "vocab.txt").write_bytes(vocabulary.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    texts = [
        "Homarus gammarus , known as the European lobster ( 24 in ) weighs up to 5 \u2013 6 kg @-@ often",
        "\u00dcn\u00efc\u00f6d\u00e9 Stra\u00dfe \u6771\u4eac\ud55c\uad6d \u2028 don't \x00\x07\ttabs [MASK]",
        "\U0001f600 " + "a" * 300,
        "",
    ]
    for text in texts:
        assert own.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
        assert own.decode(own.encode(text)) == theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True)


def test_bert_of_the_hub_names_no_tokens_in_its_config(tmp_path):
    backend = story_words.build()
    (tmp_path / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}), encoding="utf-8")
    tokenizer = load_tokenizer(str(tmp_path))
    assert (tokenizer.pad_id, tokenizer.start_id, tokenizer.eos_id, tokenizer.mask_id) == (0, 2, 3, 4)


@pytest.mark.parametrize("content", [b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nfox", b"", b"\xff\xfe"])
def test_a_list_of_entries_that_is_not_bert_is_one_sentence(tmp_path, content):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(RunError, match=r"vocab.txt (lacks .*\[MASK\]|cannot be read)") as caught:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_the_digest_of_the_shipped_words_stays_what_it_was():
    assert load_tokenizer("words").digest[:16] == "1e81a241a33c40da"  # caches and finished runs are named by it


def test_a_missing_tokenizer_is_one_sentence_with_both_ways_out(monkeypatch, tmp_path):
    monkeypatch.setenv("RTX_LAB_TOKENIZERS", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RunError, match=r"RTX_LAB_TOKENIZERS=.*network") as caught:
        load_tokenizer("nobody/nothing")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_a_broken_tokenizer_is_one_sentence(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(RunError, match="cannot be read") as caught:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_end_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text(words.build().to_str(), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}), encoding="utf-8")
    with pytest.raises(RunError, match="no padding or end"):
        load_tokenizer(str(tmp_path))
