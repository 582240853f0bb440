import hashlib
import subprocess
import sys
from collections import Counter

import pytest

from rtx_lab.core.errors import UsageError
from rtx_lab.data import generated
from rtx_lab.data.generated import arithmetic, difficulty_cycle, reasoning

SMALL = {"num_train": 1500, "num_validation": 120, "num_test": 360}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("RTX_LAB_CACHE", str(tmp_path_factory.getbasetemp() / "generated_cache"))


def texts(dataset, split):
    return [item.source for item in dataset.sources[split].items()]


@pytest.mark.parametrize("make", [reasoning, arithmetic])
def test_no_text_is_in_two_splits_nor_twice_where_it_is_judged(make):
    dataset = make()
    train, validation, test = (texts(dataset, split) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (8000, 512, 1536)
    assert len(set(validation)) == 512
    assert len(set(test)) == 1536
    assert not set(train) & set(validation)
    assert not set(train) & set(test)
    assert not set(validation) & set(test)
    assert len(set(train)) > 0.85 * len(train)


def test_splits_stay_disjoint_when_a_kind_of_item_is_used_up(monkeypatch):
    monkeypatch.setattr(generated, "PATIENCE", 3)
    dataset = reasoning(num_train=9000, num_validation=9000, num_test=9000)
    train, validation, test = (set(texts(dataset, split)) for split in ("train", "validation", "test"))
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_a_longer_split_begins_with_a_shorter_one():
    short, long = reasoning(**SMALL), reasoning(**{**SMALL, "num_test": 500})
    assert long.sources["test"].items()[:360] == short.sources["test"].items()


def test_the_mix_is_the_documented_one():
    items = reasoning(num_train=21 * 3 * 10).sources["train"].items()
    kinds = Counter((item.family, item.difficulty) for item in items)
    weights = {1: 6, 2: 5, 3: 4, 4: 3, 5: 2, 6: 1}
    assert kinds == {(f, d): 10 * w for f in ("relations", "booleans", "comparisons") for d, w in weights.items()}
    assert Counter(difficulty_cycle(weights)) == weights


GOLDEN = {
    "reasoning": "511a5c117b00ffa5",
    "arithmetic": "7fd92cccff64f2b8",
}


@pytest.mark.parametrize("make", [reasoning, arithmetic])
def test_the_items_are_those_of_this_generator_version(make):
    """When this fails on purpose, raise GENERATOR_VERSION, or old caches go on being used."""
    items = make(**SMALL).sources["test"].items()
    assert generated.GENERATOR_VERSION == 6
    assert hashlib.sha256(repr(items).encode()).hexdigest()[:16] == GOLDEN[make.__name__]


def test_items_and_digests_are_the_same_in_another_process():
    code = (
        "from rtx_lab.data.generated import reasoning as r; d = r(num_test=50); "
        "print(d.digest(), [i.source for i in d.sources['test'].items()])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7", "PATH": ""},
    )
    here = reasoning(num_test=50)
    assert out.stdout.strip() == f"{here.digest()} {texts(here, 'test')}"


def test_digests_tell_parameters_apart():
    same, other = reasoning(**SMALL).digest(), reasoning(**SMALL, data_seed=1).digest()
    assert same == reasoning(**SMALL).digest() != other
    assert arithmetic(target="final", **SMALL).digest() != arithmetic(target="rationale", **SMALL).digest()


@pytest.mark.parametrize("make", [reasoning, arithmetic])
def test_records_and_ids_agree_and_nothing_is_cut_or_unknown(make):
    dataset = make(**SMALL)
    unknown = dataset.tokenizer.encode("something-else")[0]
    for name in ("train", "validation", "test"):
        split = dataset.split(name)
        assert (split.num_cut_sources, split.num_cut_targets) == (0, 0)
        for row in range(0, len(split), 7):
            record = split.record(row)
            assert record["id"] == f"{name}-{row}"
            assert 1 <= record["difficulty"] <= 6
            assert record["family"]
            assert dataset.tokenizer.decode(split.source(row)) == record["source"]
            decoded = [dataset.tokenizer.decode(ids) for ids in split.options(row)]
            assert decoded == record["options"]
            assert unknown not in split.source(row)
            assert unknown not in split.target(row)
            if decoded:
                assert dataset.tokenizer.decode(split.target(row)) == record["gold"] == decoded[record["label"]]


def test_wrong_sizes_and_targets_are_refused_together():
    with pytest.raises(UsageError) as caught:
        reasoning(num_train=0, num_test=-3)
    assert len(caught.value.problems) == 2
    with pytest.raises(UsageError, match="final, rationale"):
        arithmetic(target="letters")
    with pytest.raises(UsageError, match="train, validation, test"):
        reasoning(**SMALL).split("dev")
