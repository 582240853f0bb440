import csv
import gzip
import json
import os

import numpy as np
import pytest

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.data.dialogue_files import dialogsum, dialogue_csv, held_out
from rtx_lab.data.dialogues import SPECIAL_TOKENS

OWN = {"tokenizer": "dialogues"}
SPLITS = {"train": "train", "validation": "validation", "test": "test"}
real = pytest.mark.skipif(not os.environ.get("RTX_LAB_DATA"), reason="RTX_LAB_DATA is not set")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("RTX_LAB_CACHE", str(tmp_path_factory.getbasetemp() / "dialogue_files_cache"))


def row(name, **changes):
    return {
        "id": name,
        "dialogue": f"#Person1#: I am {name}.\n#Person2#: Hello.",
        "summary": f"#Person1# is {name}.",
        "topic": "names",
        **changes,
    }


def jsonl(folder, name, rows):
    path = folder / "dialogsum" / f"{name}.jsonl.gz"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(one) + "\n" for one in rows).encode()))


@pytest.fixture
def published(tmp_path):
    jsonl(tmp_path, "train", [row(f"train_{number}") for number in range(4)])
    jsonl(tmp_path, "validation", [row("dev_0"), row("dev_1")])
    jsonl(tmp_path, "test", [
        row(f"test_{number}_{reference}", dialogue=f"#Person1#: {number}?", summary=f"{number} by {reference}.")
        for number in range(2) for reference in (1, 2, 3)
    ])  # fmt: skip
    return {"path": str(tmp_path), "splits": SPLITS, "rows": {"train": 4, "validation": 2, "test": 6}, **OWN}


def test_three_summaries_of_a_test_dialogue_are_one_row(published):
    data = dialogsum(**published)
    test = data.split("test")
    assert len(test) == data.num_rows("test") == 2
    assert [test.record(place)["id"] for place in range(2)] == ["test_0", "test_1"]
    assert test.record(1)["references"] == ["1 by 1.", "1 by 2.", "1 by 3."]
    assert test.record(1)["gold"] == "1 by 1."
    train = data.split("train")
    assert [train.record(place)["id"] for place in range(4)] == [f"train_{number}" for number in range(4)]
    assert train.record(2)["topic"] == "names"
    assert train.record(2)["references"] == ["#Person1# is train_2."]
    assert (data.num_rows("train"), data.num_rows("validation")) == (4, 2)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row("a"), row("a")], r":2: the id 'a' stands already in .*:1"),
        ([row("a"), row("b", dialogue=" \n ")], r":2: the field 'dialogue' is empty"),
        ([row("a"), row("b", summary="")], r":2: the field 'summary' is empty"),
        ([row("a"), {"id": "b", "dialogue": "x"}], r":2 lacks the field 'summary'"),
        ([row("a")], r"has 1 rows where 2 are expected"),
    ],
)
def test_what_is_wrong_with_a_row_is_one_sentence(published, tmp_path, rows, words):
    jsonl(tmp_path, "validation", rows)
    with pytest.raises(RunError, match=words) as caught:
        dialogsum(**published).split("validation")
    assert "\n" not in str(caught.value)


def test_references_of_other_dialogues_are_refused(published, tmp_path):
    jsonl(tmp_path, "test", [row("test_0_1"), row("test_0_2", dialogue="other"), *(row(f"x{n}") for n in range(4))])
    with pytest.raises(RunError, match="test_0_2 and test_0_1 are references of one dialogue, but the texts differ"):
        dialogsum(**published).split("test")


def test_no_data_at_all_names_both_ways_out(monkeypatch):
    monkeypatch.delenv("RTX_LAB_DATA", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    data = dialogsum(splits=SPLITS, **OWN)
    assert [data.num_rows(name) for name in SPLITS] == [12460, 500, 500]
    with pytest.raises(RunError, match=r"RTX_LAB_DATA=.*dialogsum/train.jsonl.*network"):
        data.split("train")
    with pytest.raises(UsageError, match=r"dataset.splits must name a file for each"):
        dialogsum(splits={"train": "train"}, **OWN)


@real
def test_what_is_judged_of_the_real_dialogsum():
    data = dialogsum(splits=SPLITS, **OWN, max_source_length=4096, max_target_length=512)
    validation, test = data.split("validation"), data.split("test")
    assert len(validation) == data.num_rows("validation") == 500
    assert len(test) == data.num_rows("test") == 500
    first = test.record(0)
    assert first["id"] == "test_0"
    assert first["dialogue"].startswith("#Person1#: Ms. Dawson, I need you to take a dictation for me.\n#Person2#: Yes")
    assert all(len(test.record(place)["references"]) == 3 for place in range(500))
    assert all(len(validation.record(place)["references"]) == 1 for place in range(500))
    assert validation.num_cut_sources == test.num_cut_sources == 0
    newline = data.tokenizer.encode("\n")[0]
    assert (test.source(0) == newline).sum() == first["dialogue"].count("\n") > 8
    assert data.decode(test.target(0)) == first["gold"]


@real
@pytest.mark.skipif(not os.environ.get("RTX_LAB_TOKENIZERS"), reason="RTX_LAB_TOKENIZERS is not set")
def test_real_dialogues_are_the_tokens_of_transformers():
    from tokenizers_of_transformers import their_kobart, their_t5

    for name, make, frame in (("google-t5/t5-base", their_t5, ([], [])), ("kobart", their_kobart, ([0], [1]))):
        theirs = make()
        data = dialogsum(splits=SPLITS, tokenizer=name, special_tokens=SPECIAL_TOKENS, prefix="summarize: ")
        split = data.split("validation")
        for row in range(0, 500, 5):
            record = split.record(row)
            whole = theirs(record["source"], truncation=True, max_length=512 - len(frame[0] + frame[1]))["input_ids"]
            assert split.source(row).tolist() == [*frame[0], *whole, *frame[1]]
            assert split.target(row).tolist() == theirs(record["gold"], add_special_tokens=False)["input_ids"][:127]


@real
@pytest.mark.slow
def test_what_is_learnt_of_the_real_dialogsum():
    data = dialogsum(splits=SPLITS, **OWN, max_source_length=4096, max_target_length=512)
    train = data.split("train")
    assert len(train) == data.num_rows("train") == 12460
    assert train.record(0)["topic"] == "get a check-up"
    speakers = [data.tokenizer.encode(f"#Person{number}#") for number in range(1, 8)]
    found = [set(train.source(row).tolist()) for row in range(len(train))]
    assert [sum(ids[0] in one for one in found) for ids in speakers] == [12460, 12460, 127, 14, 5, 2, 1]
    assert data.decode(train.target(1)) == train.record(1)["gold"]
    assert (train.num_cut_sources, train.num_cut_targets) == (0, 0)


KOREAN = [
    {"fname": f"train_{number}", "dialogue": f'#Person1#: "{number}", 네?\n#Person2#: 네.', "summary": f"{number}이다."}
    for number in range(12)
]


def table(path, rows, columns=("fname", "dialogue", "summary")):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([one.get(column, "") for column in columns] for one in rows)


@pytest.fixture
def folder(tmp_path):
    table(tmp_path / "train.csv", KOREAN)
    dev = [{**one, "fname": f"dev_{place}", "topic": "수"} for place, one in enumerate(KOREAN[:3])]
    table(tmp_path / "dev.csv", dev, ("fname", "dialogue", "summary", "topic"))
    table(tmp_path / "test.csv", [{**KOREAN[0], "fname": "test_0"}], ("fname", "dialogue"))
    return tmp_path


def given(folder, **changes):
    return dialogue_csv(path=str(folder), **{"num_validation": 3, **OWN, **changes})


def test_the_splits_of_a_folder(folder):
    data = given(folder)
    found = {name: [data.split(name).record(place)["id"] for place in range(len(data.split(name)))]
             for name in ("train", "validation", "test", "submission")}  # fmt: skip
    assert len(found["train"]) == 9
    assert len(found["validation"]) == 3
    assert sorted(found["train"] + found["validation"]) == sorted(one["fname"] for one in KOREAN)
    assert found["test"] == ["dev_0", "dev_1", "dev_2"]
    assert found["submission"] == ["test_0"]
    assert {name: data.num_rows(name) for name in found} == {name: len(ids) for name, ids in found.items()}
    assert data.final_splits == ("validation", "test", "submission")
    record = data.split("test").record(1)
    assert record["dialogue"] == '#Person1#: "1", 네?\n#Person2#: 네.'
    assert (record["references"], record["topic"]) == (["1이다."], "수")
    assert data.split("train").record(0)["topic"] is None
    assert data.split("submission").record(0)["references"] == []
    again = given(folder).split("validation")
    assert [again.record(place)["id"] for place in range(3)] == found["validation"]


def test_what_is_held_out_is_a_pure_function_of_two_numbers():
    train, validation = held_out(12457, 500)
    assert (len(train), len(validation)) == (11957, 500)
    assert sorted([*train, *validation]) == list(range(12457))
    assert np.array_equal(held_out(12457, 500)[1], validation)
    assert set(held_out(12457, 100)[1]) < set(validation)


def test_there_need_be_nothing_to_hand_in_and_summaries_of_it_are_kept(folder):
    table(folder / "test.csv", [{**KOREAN[0], "fname": "test_0"}, {**KOREAN[1], "fname": "test_1", "summary": ""}])
    split = given(folder).split("submission")
    assert [split.record(place)["references"] for place in range(2)] == [["0이다."], []]
    (folder / "test.csv").unlink()
    assert given(folder).final_splits == ("validation", "test")


def test_other_files_are_other_caches(folder):
    before = given(folder).digest()
    assert given(folder, num_validation=4).digest() != before
    table(folder / "dev.csv", [{**KOREAN[0], "fname": "dev_9"}])
    assert given(folder).digest() != before
    (folder / "train.csv").unlink()
    assert given(folder).num_rows("train") == 1


def broken(folder, text, name="dev.csv"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RunError) as caught:
        given(folder).split({"dev.csv": "test", "train.csv": "train", "test.csv": "submission"}[name])
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fname,dialogue\na,b\n", "lacks the column summary (it has: fname, dialogue)"),
        ("", "lacks the column fname, dialogue, summary (it has: none)"),
        ("fname,dialogue,summary\n", "holds no rows"),
        ("fname;dialogue;summary\na;b;c\n", "parted by something else than commas"),
        ("fname,dialogue,summary,summary\na,b,c,d\n", "has the column summary more than once"),
        ("fname,dialogue,summary\na,b,c\nd, ,f\n", "row 2: the field 'dialogue' is empty"),
        ("fname,dialogue,summary\na,b,c\nd,e,\n", "row 2: the field 'summary' is empty"),
        ("fname,dialogue,summary\n,b,c\n", "row 1: the field 'fname' is empty"),
        ("fname,dialogue,summary\na,b,c\nd,e,f\na,g,h\n", "row 3: the fname 'a' stands already in"),
        ("fname,dialogue,summary\na,b,c\nd,e\n", "row 2 has 2 fields, the header 3"),
        ('fname,dialogue,summary\na,"b,c\n', "row 1 cannot be read as CSV"),
        ('fname,dialogue,summary\na,"b"x,c\n', "row 1 cannot be read as CSV"),
        ("fname,dialogue,summary\na,안녕,c\n".encode("cp949"), "is not UTF-8 near row 1: save it as 'CSV UTF-8'"),
    ],
)
def test_a_wrong_file_is_one_sentence_with_file_and_row(folder, text, words):
    assert words in broken(folder, text)


def test_a_file_that_is_not_there_is_one_sentence(folder):
    (folder / "dev.csv").unlink()
    with pytest.raises(RunError, match=r"There is no .*dev.csv") as caught:
        given(folder).split("test")
    assert "\n" not in str(caught.value)
    assert "lacks the column dialogue" in broken(folder, "fname\nx\n", "test.csv")


def test_a_file_of_excel_is_read(folder):
    (folder / "dev.csv").write_bytes('\ufefffname,dialogue,summary\r\nd,"a\nb",c\r\n\r\n'.encode())
    split = given(folder).split("test")
    assert (len(split), split.record(0)["dialogue"]) == (1, "a\nb")


def test_wrong_settings_are_one_sentence(folder):
    with pytest.raises(UsageError, match=r"set dataset\.path="):
        dialogue_csv(**OWN)
    with pytest.raises(UsageError, match="num_validation must be at least 1"):
        given(folder, num_validation=0)
    with pytest.raises(RunError, match=r"train.csv has 12 rows, of which dataset.num_validation=12 are held out"):
        given(folder, num_validation=12).split("train")


def test_the_special_tokens_are_whole(folder):
    data = given(folder)
    ids = {data.tokenizer.encode(token)[0] for token in SPECIAL_TOKENS[:2]}
    assert ids < set(data.split("train").source(0).tolist())
