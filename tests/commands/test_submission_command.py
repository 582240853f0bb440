"""A file to be handed in, held against the dialogues from the command line."""

import pytest

from rtx_lab.__main__ import main

TEST = "fname,dialogue\na,#Person1#: hi\nb,#Person1#: bye\n"


@pytest.fixture
def files(tmp_path):
    against, handed_in = tmp_path / "test.csv", tmp_path / "submission.csv"
    against.write_text(TEST)

    def check(text):
        handed_in.write_text(text)
        return main(["submission", str(handed_in), "--against", str(against)])

    return check


def test_a_whole_submission_is_well(files, capsys):
    assert files("fname,summary\na,greets\nb,leaves\n") == 0
    assert "2 summaries" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fname,summary\na,greets\n", "lacks b"),
        ("fname,summary\nb,leaves\na,greets\n", "another order"),
        ("fname,summary\na,\nb,leaves\n", "no summary for a"),
        ("name,summary\na,x\n", "must begin with the line fname,summary"),
    ],
)
def test_what_is_wrong_is_said(text, words, files, capsys):
    assert files(text) == 2
    assert words in capsys.readouterr().err


def test_dialogues_that_are_not_there(tmp_path, capsys):
    assert main(["submission", str(tmp_path / "x.csv"), "--against", str(tmp_path / "test.csv")]) == 1
    assert "There is no" in capsys.readouterr().err
