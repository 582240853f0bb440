import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.data import corpora
from rtx_lab.data.batching import StepPlan, cut
from rtx_lab.data.corpus import held_out_slice

real = pytest.mark.skipif(
    not (os.environ.get("RTX_LAB_DATA") and os.environ.get("RTX_LAB_TOKENIZERS")),
    reason="RTX_LAB_DATA and RTX_LAB_TOKENIZERS are not set",
)
WORDS = "words"  # the shipped tokenizer: unknown words are fine here, the network is not


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("RTX_LAB_CACHE", str(tmp_path_factory.getbasetemp() / "corpora_cache"))


def settings(name):
    """The YAML of a data set, read without Hydra."""
    import yaml

    path = Path(__file__).parents[2] / "conf" / "dataset" / f"{name}.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert values.pop("_partial_") is True
    assert values.pop("_target_") == f"rtx_lab.data.corpora.{name}"
    return values


def make(name, **changes):
    return getattr(corpora, name)(**{**settings(name), **changes})


def write(folder, name, rows):
    path = folder / "logiqa" / f"{name}.jsonl.gz"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def logic(number):
    options = [f"option {letter} {number}" for letter in "abcd"]
    return {"context": "left " * number, "query": "who is top ?", "options": options, "correct_option": number % 4}


@pytest.fixture
def fixture_set(tmp_path):
    sizes = {"train": 12, "validation": 5, "test": 6}
    for name, size in sizes.items():
        write(tmp_path, name, [logic(number) for number in range(size)])
    return {"path": str(tmp_path), "rows": sizes, "tokenizer": WORDS}


def test_logiqa_from_a_small_local_folder(fixture_set):
    dataset = make("logiqa", **fixture_set, max_source_length=40)
    train = dataset.split("train")
    assert [len(dataset.split(name)) for name in ("train", "validation", "test")] == [12, 5, 6]
    assert [train.record(row)["label"] for row in range(5)] == [0, 1, 2, 3, 0]
    assert train.record(3)["id"] == "train-3"
    assert len(train.options(3)) == 4
    assert train.record(3)["options"][3] == train.record(3)["gold"] == "option d 3"
    assert dataset.answer == "options"
    assert (dataset.max_source_length, dataset.max_target_length) == (40, 128)


def test_a_long_source_keeps_its_prefix_and_its_end(fixture_set, tmp_path):
    write(tmp_path, "train", [logic(number) for number in (1, 90, 2, 80)])
    dataset = make("logiqa", **{**fixture_set, "rows": {"train": 4}}, max_source_length=32)
    train = dataset.split("train")
    whole = dataset.tokenizer.encode(train.record(1)["source"])
    assert len(train) == 4
    assert train.num_cut_sources == 2
    assert list(train.source(1)) == whole[:1] + whole[-31:]
    assert list(train.source(0)) == dataset.tokenizer.encode(train.record(0)["source"])


def test_a_missing_split_names_both_ways_out(fixture_set, tmp_path):
    (tmp_path / "logiqa" / "train.jsonl.gz").unlink()
    dataset = make("logiqa", **fixture_set)
    assert len(dataset.split("test")) == 6
    with pytest.raises(RunError, match=r"train split of logiqa is missing.*RTX_LAB_DATA=.*network") as caught:
        dataset.split("train")
    assert "\n" not in str(caught.value)
    assert dataset.digest() != make("logiqa", **fixture_set, max_source_length=40).digest()


def test_no_data_at_all_names_both_ways_out(monkeypatch):
    monkeypatch.delenv("RTX_LAB_DATA", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RunError, match=r"RTX_LAB_DATA=.*gsm8k/train.jsonl.*network") as caught:
        make("gsm8k", tokenizer=WORDS).split("train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_of_the_hub_names_its_token(monkeypatch, status):
    import httpx
    from huggingface_hub import errors

    def refuse(*args, **kwargs):
        request = httpx.Request("GET", "https://huggingface.co")
        raise errors.HfHubHTTPError("no", response=httpx.Response(status, request=request))

    monkeypatch.delenv("RTX_LAB_DATA", raising=False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(RunError, match=rf"{status}.*HF_TOKEN"):
        make("sst2", tokenizer=WORDS).split("test")


def test_the_hub_is_asked_for_pinned_parquet(monkeypatch, tmp_path):
    import pyarrow
    import pyarrow.parquet

    asked = []

    def give(repo, file, repo_type, revision, local_files_only):
        asked.append((repo, file, repo_type, revision))
        rows = [
            {"qid": str(n), "question": "left ?", "answer": n % 2 == 0} for n in range(687 if "test" in file else 1603)
        ]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "file.parquet")
        return str(tmp_path / "file.parquet")

    monkeypatch.delenv("RTX_LAB_DATA", raising=False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", give)
    dataset = make("strategyqa", tokenizer=WORDS)
    sizes = [len(dataset.split(name)) for name in ("test", "validation", "train")]
    assert sizes == [687, 160, 1443]
    assert asked[0] == ("ChilleD/StrategyQA", "default/test/0000.parquet", "dataset", "refs/convert/parquet")


def test_a_wrong_count_is_refused(fixture_set, tmp_path):
    path = write(tmp_path, "test", [logic(0)])
    with pytest.raises(RunError, match=rf"{path} has 1 rows where 6 are expected"):
        make("logiqa", **fixture_set).split("test")
    with pytest.raises(RunError, match="651 are expected"):
        make("logiqa", **{**fixture_set, "rows": None}).split("test")


def test_a_broken_line_leaves_the_other_splits_and_the_cache_alone(fixture_set, tmp_path, monkeypatch):
    monkeypatch.setenv("RTX_LAB_CACHE", str(tmp_path / "own_cache"))
    dataset = make("logiqa", **fixture_set)
    dataset.split("test")
    before = sorted(path.name for path in (tmp_path / "own_cache").rglob("*"))
    path = tmp_path / "logiqa" / "train.jsonl"
    (tmp_path / "logiqa" / "train.jsonl.gz").unlink()
    path.write_text(json.dumps(logic(1)) + '\n{"context": \n', encoding="utf-8")
    with pytest.raises(RunError, match=rf"{path}:2 is not valid JSON"):
        dataset.split("train")
    path.write_text("\n".join(json.dumps(row) for row in [logic(1), {"context": ""}] * 6), encoding="utf-8")
    with pytest.raises(RunError, match=rf"{path}:2 lacks the field 'options'"):
        dataset.split("train")
    assert sorted(path.name for path in (tmp_path / "own_cache").rglob("*")) == before


def test_changed_bytes_change_the_digest(fixture_set, tmp_path):
    before = make("logiqa", **fixture_set).digest()
    write(tmp_path, "test", [logic(number) for number in range(1, 7)])
    assert make("logiqa", **fixture_set).digest() != before


def test_wrong_settings_are_refused_together(fixture_set):
    with pytest.raises(UsageError) as caught:
        make("logiqa", **fixture_set, max_source_length=3, max_target_length=1, splits={"train": "a", "dev": "b"})
    assert len(caught.value.problems) == 4
    with pytest.raises(UsageError, match="final, rationale"):
        make("gsm8k", tokenizer=WORDS, target="letters")


def test_the_held_out_slice_is_fixed():
    train, validation = held_out_slice(7473)
    assert (len(train), len(validation)) == (6726, 747)
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(7473))
    assert list(validation[:5]) == HELD_OUT_START
    assert list(held_out_slice(7473)[1]) == list(validation)


HELD_OUT_START = [9, 16, 50, 58, 59]

COUNTS = {
    "gsm8k": (6726, 747, 1319),
    "logiqa": (None, 651, 651),
    "strategyqa": (1855, 206, 229),
    "commonsenseqa": (8767, 974, 1221),
    "sst2": (60614, 6735, 872),
}
LARGE = pytest.mark.slow


@real
@pytest.mark.parametrize("name", ["gsm8k", "logiqa", "strategyqa", "commonsenseqa", pytest.param("sst2", marks=LARGE)])
def test_counts_of_the_real_sets(name):
    dataset = make(name)
    assert dataset.vocab_size == 32000
    for split_name, count in zip(("train", "validation", "test"), COUNTS[name], strict=False):
        if count is None:
            with pytest.raises(RunError, match="is missing"):
                dataset.split(split_name)
            continue
        split = dataset.split(split_name)
        assert len(split) == count
        assert split.max_id < 32000
        assert split.source_lengths.max() <= dataset.max_source_length
        assert split.num_cut_sources <= {"logiqa": 5}.get(name, 0)
        assert split.num_cut_targets <= {"logiqa": 2}.get(name, 0)


@real
@pytest.mark.parametrize("name", ["gsm8k", "strategyqa", "commonsenseqa"])
def test_the_slices_of_real_sets_do_not_overlap(name):
    dataset = make(name)
    ids = [
        {dataset.split(split).record(row)["id"] for row in range(len(dataset.split(split)))}
        for split in ("train", "validation", "test")
    ]
    assert [len(names) for names in ids] == list(COUNTS[name])
    assert not ids[0] & ids[1]
    assert not ids[0] & ids[2]
    assert not ids[1] & ids[2]


@real
def test_gsm8k_targets_decode_to_the_gold_number():
    for target, longest in (("final", 16), ("rationale", 320)):
        dataset = make("gsm8k", target=target, max_target_length=longest)
        split = dataset.split("test")
        assert split.num_cut_targets == 0
        for row in range(0, len(split), 50):
            said = dataset.tokenizer.decode(split.target(row))
            assert said.rpartition("####")[2].strip() == split.record(row)["gold"]


@real
def test_real_tokens_of_gsm8k_fill_their_batches():
    """The bar: at batch 32 at least .92 of all positions, source and target, are real."""
    split = make("gsm8k").split("train")
    plan = StepPlan(split.lengths, seed=42, global_batch=64)
    steps = range(1, plan.steps_per_epoch + 1)
    pieces = [rows for step in steps for rows in cut(plan.indices(step), split.lengths, micro_batch=32)]
    kinds = (split.source_lengths, split.target_lengths + 1)
    padded = sum(len(rows) * int(lengths[rows].max()) for rows in pieces for lengths in kinds)
    assert sum(int(lengths.sum()) for lengths in kinds) / padded >= 0.92
