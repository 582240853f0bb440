import pytest

from rtx_lab.scoring.answers import exact_match, normalise, token_f1


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("A", "a"),
        ("the", "the"),
        ("The cat.", "cat"),
        ("vitamin A", "vitamin a"),
        ("-5", "-5"),
        ("3.5", "7/2"),
        ("3.50", "7/2"),
        ("35", "35"),
        ("1,000", "1000"),
        ("$5", "5"),
        ('"Yes!"', "yes"),
        ("  two   words ", "two words"),
        ("", ""),
        ("...", ""),
        ("grand-mother", "grand-mother"),
        ("(12)", "12"),
    ],
)
def test_normalise(text, normal):
    assert normalise(text) == normal


@pytest.mark.parametrize(
    ("prediction", "gold", "equal"),
    [
        ("A", "A", True),
        ("A", "", False),
        ("", "A", False),
        ("", "", False),
        ("the", "A", False),
        ("vitamin", "vitamin A", False),
        ("5", "-5", False),
        ("35", "3.5", False),
        ("5.0", "5", True),
        ("The Cat", "cat!", True),
        ("cat dog", "dog cat", False),
    ],
)
def test_exact_match(prediction, gold, equal):
    assert exact_match(prediction, gold) is equal


@pytest.mark.parametrize(
    ("prediction", "gold", "score"),
    [
        ("red cat", "red cat", 1.0),
        ("red cat", "red dog", 0.5),
        ("cat cat", "cat", 2 / 3),
        ("cat", "dog", 0.0),
        ("", "dog", 0.0),
        ("", "", 0.0),
        ("A", "A", 1.0),
        ("-5", "5", 0.0),
    ],
)
def test_token_f1(prediction, gold, score):
    assert token_f1(prediction, gold) == pytest.approx(score)
    assert token_f1(gold, prediction) == pytest.approx(score)
