import pytest

from rtx_lab.commands.questions import prepare, split_options
from rtx_lab.core.errors import UsageError
from rtx_lab.data.tokenizers import load_tokenizer

QUESTION = "inn 3 right of church . where is inn from church ?"


def ask(line, **changes):
    settings = {"dataset": "reasoning", "tokenizer": load_tokenizer("words"), "max_seq_len": 64}
    return prepare(line, **(settings | changes))


def test_a_question_is_encoded_as_in_training():
    tokenizer = load_tokenizer("words")
    question = ask(f"  {QUESTION}  ", options=("3 right", "2 left"))
    assert question.text == QUESTION
    assert question.source_ids == tokenizer.encode(QUESTION)
    assert question.option_ids == [tokenizer.encode("3 right"), tokenizer.encode("2 left")]


def test_options_in_the_line_win():
    assert ask(f"{QUESTION} || 3 left | 3 right", options=("yes", "no")).options == ("3 left", "3 right")
    assert ask(QUESTION, options=("yes", "no")).options == ("yes", "no")
    assert ask(QUESTION).options == ()


class Letters:
    """A tokenizer that knows everything: an id per character."""

    class backend:
        @staticmethod
        def token_to_id(token):
            return None

    @staticmethod
    def encode(text):
        return [ord(letter) for letter in text]


def as_trained(line, dataset, **changes):
    question = ask(line, dataset=dataset, tokenizer=Letters, max_seq_len=500, **changes)
    return "".join(map(chr, question.source_ids)), question.options


def test_public_sets_get_their_prefix_options_and_end():
    assert as_trained("Is it?", "gsm8k") == ("solve: Is it?", ())
    assert as_trained("solve: Is it?", "gsm8k") == ("solve: Is it?", ())
    assert as_trained("Is it?", "strategyqa") == ("strategy: Is it? Answer (Yes or No):", ("yes", "no"))
    assert as_trained("Good film", "sst2") == ("sentiment: Good film", ("negative", "positive"))
    assert as_trained("Where? || sea|hill", "commonsenseqa")[0] == "choose: Where? Options: A) sea B) hill"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "the text is empty"),
        ("   ", "the text is empty"),
        (" || yes|no", "the text is empty"),
        ("Where is the inn", "'Where'"),
        ("where is Zanzibar || yes|no", "'Zanzibar'"),
        ("where is inn || yes|Nope", "'Nope'"),
        ("a b c d e f g h", "and 3 more"),
        ("where is inn ||", "at least two"),
        ("where is inn || yes", "at least two"),
        ("where is inn || yes||no", "none empty"),
        ("where is inn || yes|yes", "stands twice"),
        ("inn " * 70, "70 tokens and the model takes 64"),
        ("inn || yes|" + "no " * 70, "longest option has 71 tokens"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(line, words):
    with pytest.raises(UsageError) as refused:
        ask(line)
    assert words in str(refused.value)
    assert len(refused.value.problems) == 1


def test_options_are_split_at_bars():
    assert split_options(" a | b b |c") == ("a", "b b", "c")
