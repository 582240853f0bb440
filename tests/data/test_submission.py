import csv
import os

import pytest

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.data.submission import check_submission, submission_text, write_submission

NAMES = ["test_0", "test_1", "test_2"]
ROWS = [
    {"fname": "test_0", "summary": '#Person1#은 "네, 좋아요"라고 한다.'},
    {"fname": "test_1", "summary": "Two\nlines,  one comma"},
    {"fname": "test_2", "summary": "plain"},
]


def test_what_is_written_is_read_back_and_found_right(tmp_path):
    path = tmp_path / "out.csv"
    write_submission(path, ROWS)
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["fname"] for row in rows] == NAMES
    assert rows[0]["summary"] == ROWS[0]["summary"]
    assert rows[1]["summary"] == "Two lines, one comma"
    assert check_submission(path, NAMES) == []
    assert path.read_bytes().startswith(b"fname,summary\n")
    assert os.listdir(tmp_path) == ["out.csv"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_text_is_what_is_written(tmp_path):
    write_submission(tmp_path / "out.csv", ROWS)
    text = submission_text((row["fname"], row["summary"]) for row in ROWS)
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == text


def test_a_repeated_name_writes_nothing_and_keeps_what_was_there(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("before")
    with pytest.raises(UsageError, match="missing or repeated: 'test_0'"):
        write_submission(path, [*ROWS, ROWS[0]])
    with pytest.raises(UsageError, match="missing or repeated: ''"):
        write_submission(path, [{"fname": "", "summary": "x"}])
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_a_disk_that_refuses_is_one_sentence_and_leaves_nothing(tmp_path):
    with pytest.raises(RunError, match="cannot be written"):
        write_submission(tmp_path / "nowhere" / "out.csv", ROWS)
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        write_submission(tmp_path / "folder", ROWS)
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fname,summary\ntest_0,a\ntest_1,b\n", "lacks test_2"),
        ("fname,summary\ntest_0,a\ntest_1,b\ntest_2,c\ntest_9,d\n", "has, against the test file, test_9"),
        ("fname,summary\ntest_0,a\ntest_1,b\ntest_2,c\ntest_1,d\n", "repeats test_1"),
        ("fname,summary\ntest_0,a\ntest_1, \ntest_2,c\n", "has no summary for test_1"),
        ("fname,summary\ntest_1,a\ntest_0,b\ntest_2,c\n", r"another order than the test file, from row 1 \(test_1\)"),
        ("fname,summary\ntest_0,a,b\ntest_1,b\ntest_2,c\n", "row 1 must have 2 fields"),
        (",fname,summary\n0,test_0,a\n", "must begin with the line fname,summary, not ,fname,summary"),
        ("", "must begin with the line fname,summary, not nothing"),
        ('fname,summary\ntest_0,"a\n', "is no CSV in UTF-8"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, text, words):
    path = tmp_path / "out.csv"
    path.write_text(text)
    problems = check_submission(path, NAMES)
    assert len(problems) == 1
    import re

    assert re.search(words, problems[0])
    assert "\n" not in problems[0]


def test_many_problems_come_at_once_and_names_are_few(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("fname,summary\nx,\nx,a\n")
    problems = check_submission(path, [f"test_{number}" for number in range(10)])
    assert len(problems) == 4
    assert "test_0, test_1, test_2 and 7 more" in problems[0]


def test_no_file_and_no_text(tmp_path):
    assert "cannot be read" in check_submission(tmp_path / "none.csv", NAMES)[0]
    (tmp_path / "bad.csv").write_bytes(b"fname,summary\n\xff\xfe,a\n")
    assert "UTF-8" in check_submission(tmp_path / "bad.csv", NAMES)[0]
