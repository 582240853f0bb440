import gzip
import json

import pytest

from rtx_lab.core.errors import RunError
from rtx_lab.data.reading import Row, read_rows

GOOD = [{"question": "a\u2028b", "answer": 1}, {"question": "ü", "answer": 2}]


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def refused(path):
    with pytest.raises(RunError) as caught:
        list(read_rows(path))
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_plain_gzip_csv_and_parquet_hold_the_same_rows(tmp_path):
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(GOOD)
    (tmp_path / "a.jsonl").write_bytes(lines(GOOD))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(GOOD)))
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    pyarrow.csv.write_csv(table, tmp_path / "a.csv")
    for name in ("a.jsonl", "a.jsonl.gz", "a.parquet", "a.csv"):
        assert [row.fields for row in read_rows(tmp_path / name)] == GOOD


def test_byte_order_mark_carriage_returns_and_blank_lines_are_harmless(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + lines(GOOD).replace(b"\n", b"\r\n\r\n"))
    rows = list(read_rows(path))
    assert [row.fields for row in rows] == GOOD
    assert [row.where for row in rows] == [f"{path}:1", f"{path}:3"]


@pytest.mark.parametrize(
    "broken", [b'{"question": "x", ', b"{'question': 1}", b"[1, 2]", b"3", b'"text"', b"[" * 100_000]
)
@pytest.mark.parametrize("line", [1, 2, 3])
def test_a_broken_line_is_named_by_file_and_line(tmp_path, broken, line):
    path = tmp_path / "a.jsonl"
    whole = lines(GOOD).splitlines(keepends=True)
    whole.insert(line - 1, broken + b"\n")
    path.write_bytes(b"".join(whole))
    assert f"{path}:{line} " in refused(path)


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(GOOD) + b'{"question": "\xff"}\n')
    assert f"{path}:3 is not UTF-8" in refused(path)


@pytest.mark.parametrize("keep", [0, 1, 10, 30, -8, -1])
def test_a_truncated_gzip_file_is_refused(tmp_path, keep):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines(GOOD * 50))[:keep])
    assert "gzip" in refused(path) or keep == 0


def test_a_flipped_bit_in_gzip_is_refused(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    data = bytearray(gzip.compress(lines(GOOD * 50)))
    data[len(data) // 2] ^= 16
    path.write_bytes(data)
    refused(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.parquet"])
def test_an_empty_file_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(b"") if name.endswith("gz") else b"")
    refused(tmp_path / name)


def test_broken_tables_folders_and_missing_files_are_refused(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 is not enough")
    (tmp_path / "b.csv").write_bytes(b"a,b\n1,2\n3\n")
    (tmp_path / "c.jsonl").mkdir()
    for name in ("a.parquet", "b.csv", "c.jsonl", "d.jsonl"):
        refused(tmp_path / name)


@pytest.mark.parametrize(
    ("method", "value", "message"),
    [
        ("text", 3, "must be text, not int"),
        ("texts", "abc", "must be a list"),
        ("texts", ["a", 3], "list of texts"),
        ("texts", [], "list of texts"),
        ("truth", 1, "true or false"),
        ("nested", [], "an object"),
        ("text", None, "must be text"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(method, value, message):
    with pytest.raises(RunError, match=rf"f:7.*'key'.*{message}|f:7: the field 'key' must be a {message}"):
        getattr(Row("f:7", {"key": value}), method)("key")


@pytest.mark.parametrize("value", [-1, 4, True, 1.0, "1"])
def test_a_choice_out_of_range_is_refused(value):
    with pytest.raises(RunError, match="f:7: the field 'key' must be"):
        Row("f:7", {"key": value}).choice("key", 4)


def test_a_missing_field_is_named_with_those_that_are_there():
    with pytest.raises(RunError, match=r"f:7 lacks the field 'question' \(it has: query, text\)"):
        Row("f:7", {"text": "", "query": ""}).text("question")
