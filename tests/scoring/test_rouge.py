import builtins
import logging
import random
import string

import pytest
from rouge_by_definition import rouge_by_definition

from rtx_lab.core.errors import UsageError
from rtx_lab.scoring import rouge as module
from rtx_lab.scoring.rouge import METRICS, TOKENISERS, lead, longest_common_subsequence, rouge, tokeniser

SPEAKERS = ("#Person1#", "#Person2#", "#Person10#", "#Email#")
KOREAN = "#Person1#은 #Person2#에게 금요일에 설거지를 해 달라고 부탁한다."


def random_tokens(rng, longest, kinds=6):
    return [rng.choice(string.ascii_lowercase[:kinds]) for _ in range(rng.randint(0, longest))]


def test_scores_are_those_of_the_definition():
    rng = random.Random(1)
    for _ in range(600):
        prediction = random_tokens(rng, 40)
        references = [random_tokens(rng, 40) for _ in range(rng.randint(1, 3))]
        exact = rouge_by_definition(prediction, references)
        found = rouge(prediction, references)
        assert tuple(found) == METRICS
        for metric in METRICS:
            assert found[metric] == pytest.approx(float(exact[metric]), abs=1e-15)


@pytest.fixture(scope="module")
def scorers_of_google():
    """rouge_score without the log handler of absl, which it imports.

    That one holds the stderr of this moment, and whoever sets up logging later (Hydra does) would close it.
    """
    before = logging._handlerList[:]  # pyright: ignore[reportAttributeAccessIssue]
    yield pytest.importorskip("rouge_score.rouge_scorer")
    logging._handlerList[:] = before  # pyright: ignore[reportAttributeAccessIssue]


def test_scores_of_english_are_those_of_rouge_score(scorers_of_google):
    scorer = scorers_of_google.RougeScorer(["rouge1", "rouge2", "rougeL"])
    rng = random.Random(2)
    text = "the a cat dog isn't sat on Mr. Smith's mat, 3:30 o'clock; well-known end. (really) A_b"
    words = text.split()
    cut = tokeniser("whitespace")
    for _ in range(400):
        prediction, reference = (" ".join(rng.choices(words, k=rng.randint(0, 30))) for _ in range(2))
        found = rouge(cut(prediction), [cut(reference)])
        expected = scorer.score(reference, prediction)
        for metric in METRICS:
            assert found[metric] == pytest.approx(expected[metric].fmeasure, abs=1e-12)


def test_any_tokens_are_scored_as_rouge_score_does(scorers_of_google):
    scorers = scorers_of_google

    class Cutter:
        def __init__(self, cut):
            self.tokenize = cut

    rng = random.Random(3)
    for name in ("whitespace", "characters"):
        cut = tokeniser(name, SPEAKERS)
        scorer = scorers.RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=Cutter(cut))
        for _ in range(100):
            prediction, reference = (" ".join(rng.choices(KOREAN.split(), k=rng.randint(0, 12))) for _ in range(2))
            found = rouge(cut(prediction), [cut(reference)])
            expected = scorer.score(reference, prediction)
            for metric in METRICS:
                assert found[metric] == pytest.approx(expected[metric].fmeasure, abs=1e-12)


def test_each_metric_is_the_best_over_the_references():
    prediction, one, other = list("abcd"), list("abxyz"), list("dcba")
    both = rouge(prediction, [one, other])
    alone = [rouge(prediction, [reference]) for reference in (one, other)]
    assert both == {metric: max(found[metric] for found in alone) for metric in METRICS}
    assert both["rouge1"] == 1.0  # from the second
    assert both["rouge2"] == alone[0]["rouge2"] > alone[1]["rouge2"] == 0.0


@pytest.mark.parametrize("pair", [("", "a b"), ("a b", ""), ("", ""), ("a", "b")])
def test_nothing_shared_is_zero(pair):
    assert rouge(pair[0].split(), [pair[1].split()]) == dict.fromkeys(METRICS, 0.0)


def test_no_reference_is_an_error_of_ours():
    with pytest.raises(ValueError, match="at least one reference"):
        rouge(["a"], [])


@pytest.mark.parametrize("name", ["whitespace", "characters"])
def test_identical_korean_is_one(name):
    cut = tokeniser(name, SPEAKERS)
    assert rouge(cut(KOREAN), [cut(KOREAN)]) == dict.fromkeys(METRICS, 1.0)
    assert rouge(tokeniser(name)(KOREAN), [cut("전혀 다른 말")])["rouge1"] < 0.2


def test_speakers_are_whole_and_apart_from_particles():
    whitespace, characters = (tokeniser(name, SPEAKERS) for name in ("whitespace", "characters"))
    assert whitespace("#Person1#은 간다. #Person10# #person2#'s") == [
        "#person1#", "은", "간다", "#person10#", "#person2#", "s",
    ]  # fmt: skip
    assert characters("#Email#이다 A1!") == ["#email#", "이", "다", "a", "1"]
    assert tokeniser("whitespace")("#Person1#은") == ["person1", "은"]
    one, other = whitespace("#Person1# agrees"), whitespace("#Person2# agrees")
    assert rouge(one, [other])["rouge1"] == pytest.approx(0.5)


def test_composed_and_decomposed_korean_are_the_same():
    import unicodedata

    cut = tokeniser("characters")
    assert cut(unicodedata.normalize("NFD", "한국어")) == cut("한국어") == ["한", "국", "어"]


def test_morphemes_are_kiwis_without_punctuation():
    pytest.importorskip("kiwipiepy")
    cut = tokeniser("morphemes", SPEAKERS)
    assert cut("") == cut("  ") == cut("...!") == []
    found = cut(KOREAN)
    assert found[0] == "#person1#"
    assert "#person2#" in found
    assert "." not in found
    assert {"금요일", "설거지", "부탁"} <= set(found)
    assert rouge(found, [cut(KOREAN)]) == dict.fromkeys(METRICS, 1.0)
    plain, polite = "학교에 갔다.", "학교에서 갔어요."
    words = tokeniser("whitespace")
    assert rouge(cut(plain), [cut(polite)])["rouge1"] > 0.4 > rouge(words(plain), [words(polite)])["rouge1"] == 0.0


def test_without_kiwi_there_is_one_sentence(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "kiwipiepy":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    module._kiwi.cache_clear()
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UsageError, match=r"pip install 'rtx-lab\[korean\]'.*rouge_tokenizer=characters"):
        tokeniser("morphemes")
    monkeypatch.undo()


def test_an_unknown_tokeniser_names_the_known_ones():
    with pytest.raises(UsageError, match="one of whitespace, characters, morphemes, not 'eojeol'"):
        tokeniser("eojeol")
    assert tuple(TOKENISERS) == ("whitespace", "characters", "morphemes")


def test_the_longest_common_subsequence_of_long_texts():
    rng = random.Random(4)
    for size in (63, 64, 65, 300):
        left, right = ([rng.choice("ab") for _ in range(size)] for _ in range(2))
        row = [0] * (size + 1)
        for token in left:
            last = 0
            for place, other in enumerate(right):
                row[place + 1], last = (last + 1 if token == other else max(row[place + 1], row[place])), row[place + 1]
        assert longest_common_subsequence(left, right) == row[-1]


def test_the_lead_is_the_first_turns():
    source = "#Person1#: Hi.\n\n#Person2#: Hello.\n#Person1#: Bye."
    assert lead(source, 2) == "#Person1#: Hi.\n#Person2#: Hello."
    assert lead(source, 9) == "#Person1#: Hi.\n#Person2#: Hello.\n#Person1#: Bye."
    assert lead("", 3) == ""
