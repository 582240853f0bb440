"""Special tokens added to a tokenizer, and what frames a source: held against transformers, token by token."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
from tokenizers_of_transformers import their_kobart, their_t5

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.data.dialogues import SPECIAL_TOKENS
from rtx_lab.data.tokenizers import load_tokenizer

ROOT = Path(os.environ.get("RTX_LAB_TOKENIZERS", "/nowhere"))
needs_t5 = pytest.mark.skipif(not (ROOT / "t5").is_dir(), reason="RTX_LAB_TOKENIZERS holds no t5")
needs_kobart = pytest.mark.skipif(not (ROOT / "kobart").is_dir(), reason="RTX_LAB_TOKENIZERS holds no kobart")
TEXTS = [
    "#Person1#: Hi, Mr. Smith. I'm Doctor Hawkins.\n#Person2#: Call me at #PhoneNumber#.\n\n#Person1#:Ok.",
    "#Person1#은 #Person2#에게 금요일에 설거지를 해 달라고 부탁한다.",
    " two  spaces \n",
    "#Person1##Person2#",
    "",
]


def test_new_tokens_are_single_ids_at_the_end():
    plain = load_tokenizer("dialogues")
    tokenizer = plain.with_tokens(SPECIAL_TOKENS)
    first = plain.vocab_size
    assert [tokenizer.encode(token) for token in SPECIAL_TOKENS] == [[first + place] for place in range(11)]
    assert tokenizer.vocab_size == first + 11
    assert len(plain.encode("#Person1#")) > 1  # the original stays as it was
    assert tokenizer.encode("a#Person1#b") == [*plain.encode("a"), first, *plain.encode("b")]
    assert tokenizer.digest != plain.digest
    assert plain.with_tokens([]) is plain


def test_tokens_that_are_there_keep_their_ids():
    plain = load_tokenizer("dialogues")
    tokenizer = plain.with_tokens(["</s>", "#Person1#"])
    assert tokenizer.encode("</s>") == [plain.eos_id]
    assert tokenizer.encode("#Person1#") == [plain.vocab_size]
    again = tokenizer.with_tokens(["#Person1#", "#Person2#"])
    assert again.encode("#Person1##Person2#") == [plain.vocab_size, plain.vocab_size + 1]
    order = plain.with_tokens(["#Person2#", "#Person1#"])
    assert order.digest != plain.with_tokens(["#Person1#", "#Person2#"]).digest


def test_decoding_keeps_what_it_is_told_to_keep():
    tokenizer = load_tokenizer("dialogues").with_tokens(SPECIAL_TOKENS)
    speakers = [tokenizer.encode(token)[0] for token in SPECIAL_TOKENS]
    text = "#Person1# asks #Person2# for the email. #Email#이다."
    ids = [tokenizer.start_id, *tokenizer.encode(text), tokenizer.eos_id, tokenizer.pad_id]
    assert tokenizer.decode(ids, keep=speakers) == text
    assert tokenizer.decode_answer([*ids, *ids], keep=speakers) == text
    assert tokenizer.decode(ids) == " asks  for the email. 이다."
    assert tokenizer.decode(ids, keep=speakers[:1]) == "#Person1# asks  for the email. 이다."
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.decode(ids, keep=speakers) == text
    assert copy.frame() == tokenizer.frame()


@pytest.mark.parametrize("tokens", [["a", "a"], [""], [" "]])
def test_wrong_tokens_are_one_sentence(tokens):
    with pytest.raises(UsageError, match="different texts, none empty"):
        load_tokenizer("dialogues").with_tokens(tokens)


def test_a_frame_is_made_where_there_is_none():
    for name, expected in (("dialogues", ([2], [1])), ("stories", ([2], [3]))):
        tokenizer = load_tokenizer(name).framed()
        assert tokenizer.frame() == expected
        assert tokenizer.framed() is tokenizer
        assert tokenizer.backend.encode("").ids == [*expected[0], *expected[1]]


@needs_t5
def test_t5_is_what_transformers_makes_of_it():
    theirs, ours = their_t5(), load_tokenizer("google-t5/t5-base").with_tokens(SPECIAL_TOKENS).framed()
    assert ours.frame() == ([], [1])
    assert ours.vocab_size == len(theirs) == 32111
    assert [ours.encode(token) for token in SPECIAL_TOKENS] == [[32100 + place] for place in range(11)]
    for text in TEXTS:
        assert ours.backend.encode(text).ids == theirs(text)["input_ids"]
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
    text = "#Person1# asks #Person2#'s #Email#."
    kept = [ours.encode(token)[0] for token in SPECIAL_TOKENS]
    assert ours.decode([0, *ours.encode(text), 1, 0], keep=kept).replace(" ", "") == text.replace(" ", "")


@needs_t5
def test_the_t5_class_of_transformers_differs_after_special_tokens_alone():
    """It puts a word boundary behind each one: `#Person1#`, `▁`, `:` where tokenizer.json gives `#Person1#`, `:`."""
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(ROOT / "t5"), load_tokenizer("t5")
    for text in ("Hi, Mr. Smith.\nI'm Doctor  Hawkins.", " two  spaces", "summarize: 1,234", ""):
        assert ours.backend.encode(text).ids == theirs(text)["input_ids"]


@needs_kobart
def test_kobart_is_what_transformers_makes_of_it():
    theirs, ours = their_kobart(), load_tokenizer("kobart").with_tokens(SPECIAL_TOKENS).framed()
    assert (ours.start_id, ours.eos_id, ours.pad_id, ours.mask_id) == (0, 1, 3, 6)
    assert ours.vocab_size == len(theirs) == 30011
    assert [ours.encode(token) for token in SPECIAL_TOKENS] == [[30000 + place] for place in range(11)]
    assert ours.frame() == ([0], [1])
    for text in TEXTS:
        plain = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text) == plain
        # Its file names no post-processor; whoever publishes it puts start and end around a text by hand.
        assert ours.backend.encode(text).ids == [theirs.bos_token_id, *plain, theirs.eos_token_id]
    kept = [ours.encode(token)[0] for token in SPECIAL_TOKENS]
    text = "#Person1#은 #Person2#에게 설거지를 부탁한다."
    assert ours.decode([0, *ours.encode(text), 1, 3], keep=kept).replace(" ", "") == text.replace(" ", "")


@needs_kobart
@pytest.mark.parametrize("name", ["digit82/kobart-summarization", "gogamza/kobart-base-v2", "kobart"])
def test_kobart_by_its_names(name):
    tokenizer = load_tokenizer(name)
    assert tokenizer.vocab_size == 30000
    text = "안녕하세요. 한국어 BART 입니다."
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert [tokenizer.backend.id_to_token(index) for index in tokenizer.encode(text)] == [
        "▁안녕하", "세요.", "▁한국어", "▁B", "A", "R", "T", "▁입", "니다.",
    ]  # fmt: skip


@needs_t5
def test_a_folder_with_sentencepiece_alone(tmp_path):
    shutil.copy(ROOT / "t5" / "spiece.model", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))
    ours, whole = load_tokenizer(str(tmp_path)).framed(), load_tokenizer("t5")
    assert (ours.pad_id, ours.start_id, ours.eos_id) == (0, 0, 1)
    for text in ("A small test.", "#### 1,234 apples"):
        assert ours.encode(text) == whole.encode(text)
    assert ours.frame() == ([], [1])


@needs_t5
def test_a_hub_id_with_sentencepiece_alone(tmp_path, monkeypatch):
    """As csebuetnlp/mT5_multilingual_XLSum: there is no tokenizer.json to be fetched."""
    shutil.copy(ROOT / "t5" / "spiece.model", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))

    def fetch(repo, file, **settings):
        if (tmp_path / file).is_file():
            return tmp_path / file
        raise RunError(f"The hub has no {file} of {repo}.")

    monkeypatch.setattr("rtx_lab.data.hub.fetch", fetch)
    assert load_tokenizer("somebody/mt5").encode("A small test.") == [71, 422, 794, 5]
    (tmp_path / "spiece.model").unlink()
    with pytest.raises(RunError, match=r"no tokenizer.json of somebody/mt5"):
        load_tokenizer("somebody/mt5")


@pytest.mark.parametrize("content", ["{", "{}"])
def test_a_broken_kobart_is_one_sentence(tmp_path, content):
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(RunError, match="cannot be read") as caught:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_model_json_of_others_is_one_sentence(tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "model.json"))
    with pytest.raises(RunError, match=r"lacks <pad>, <s>, </s>, <mask>: it is not KoBART's"):
        load_tokenizer(str(tmp_path))
