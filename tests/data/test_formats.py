import pytest

from rtx_lab.core.errors import RunError
from rtx_lab.data import formats
from rtx_lab.data.reading import Row

LOGIC = {"context": "All cats sleep.", "query": "So?", "options": ["Tom sleeps. ", "No"], "correct_option": 0}
STRATEGY = {"qid": "q7", "question": "Can fish fly?", "answer": False, "facts": ["SECRET"], "decomposition": ["SECRET"]}
CHOICE = {"id": "c1", "question": "Where?", "choices": {"label": ["A", "B"], "text": ["bank", "sea"]}, "answerKey": "B"}
PROBLEM = {"question": "How many?", "answer": "He has 48/2 = <<48/2=24>>24.\nThen $1,<<1+1=2>>000.\n#### 1,024"}


def test_logiqa():
    item = formats.logiqa(Row("f:1", LOGIC), "test-0")
    assert item.source == "reason: Context: All cats sleep. Question: So? Options: A) Tom sleeps. B) No"
    assert (item.target, item.label, item.options, item.id) == ("Tom sleeps.", 0, ("Tom sleeps.", "No"), "test-0")
    assert item.source[: item.keep] == "reason: "


@pytest.mark.parametrize(("answer", "target"), [(True, "yes"), (False, "no")])
def test_strategyqa_keeps_facts_and_decomposition_out(answer, target):
    item = formats.strategyqa(Row("f:1", {**STRATEGY, "answer": answer}), "test-0")
    assert item.source == "strategy: Can fish fly? Answer (Yes or No):"
    assert (item.target, item.options[item.label], item.id) == (target, target, "q7")
    assert "SECRET" not in repr(item)


def test_commonsenseqa():
    item = formats.commonsenseqa(Row("f:1", CHOICE), "test-0")
    assert item.source == "choose: Where? Options: A) bank B) sea"
    assert (item.target, item.label) == ("sea", 1)


@pytest.mark.parametrize(("label", "target"), [(0, "negative"), (1, "positive")])
def test_sst2(label, target):
    item = formats.sst2(Row("f:1", {"idx": 3, "sentence": "fine . ", "label": label}), "test-0")
    assert (item.source, item.target, item.label) == ("sentiment: fine .", target, label)


def test_gsm8k_final_and_rationale():
    final = formats.gsm8k_final(Row("f:1", PROBLEM), "train-3")
    long = formats.gsm8k_rationale(Row("f:1", PROBLEM), "train-3")
    assert final.source == long.source == "solve: How many?"
    assert final.target == final.gold == long.gold == "1024"
    assert long.target == "He has 48/2 = 24.\nThen $1,000.\n#### 1024"
    assert final.difficulty == long.difficulty == 2
    assert final.options == ()


@pytest.mark.parametrize("kind", ["logiqa", "strategyqa", "commonsenseqa", "sst2", "gsm8k_final"])
def test_the_label_changes_nothing_in_the_source(kind):
    """No label leaks: two rows that differ in the answer alone have one source."""
    rows = {
        "logiqa": [{**LOGIC, "correct_option": label} for label in (0, 1)],
        "strategyqa": [{**STRATEGY, "answer": answer} for answer in (True, False)],
        "commonsenseqa": [{**CHOICE, "answerKey": key} for key in "AB"],
        "sst2": [{"sentence": "fine", "label": label} for label in (0, 1)],
        "gsm8k_final": [{"question": "?", "answer": f"#### {number}"} for number in (1, 2)],
    }[kind]
    first, second = (getattr(formats, kind)(Row("f:1", row), "x") for row in rows)
    assert first.source == second.source
    assert first.target != second.target


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("commonsenseqa", {**CHOICE, "answerKey": ""}, "hidden test answers"),
        ("sst2", {"sentence": "x", "label": -1}, "0 to 1"),
        ("logiqa", {**LOGIC, "correct_option": 2}, "0 to 1"),
        ("logiqa", {key: value for key, value in LOGIC.items() if key != "query"}, "lacks the field 'query'"),
        ("strategyqa", {"question": "hidden"}, "lacks the field 'answer'"),
        ("gsm8k_final", {"question": "?", "answer": "42"}, "no '####'"),
    ],
)
def test_rows_that_cannot_be_used_are_named(kind, row, message):
    with pytest.raises(RunError, match=rf"^f:9.*{message}"):
        getattr(formats, kind)(Row("f:9", row), "x")
