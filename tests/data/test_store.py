import json
import multiprocessing
import os
import pickle

import numpy as np
import pytest

from rtx_lab.core.errors import RunError
from rtx_lab.data import store
from rtx_lab.data.generated import reasoning
from rtx_lab.data.text import Split

SMALL = {"num_train": 60, "num_validation": 20, "num_test": 20}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RTX_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "datasets"


def make():
    return {"numbers": np.arange(1000)}, {"num_rows": 3}


def refuse():
    raise AssertionError("built although the cache is sound")


def test_what_was_built_is_opened_afterwards():
    folder = store.open_or_build("a", "d" * 64, make)
    assert store.open_or_build("a", "d" * 64, refuse) == folder
    arrays, meta = store.load(folder)
    assert np.array_equal(arrays["numbers"], np.arange(1000))
    assert meta["num_rows"] == 3


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "meta", "no meta", "empty folder"])
def test_a_corrupted_cache_is_rebuilt(harm):
    folder = store.open_or_build("a", "d" * 64, make)
    path = folder / "numbers.npy"
    if harm == "flip":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    elif harm == "truncate":
        path.write_bytes(path.read_bytes()[:-3])
    elif harm == "delete":
        path.unlink()
    elif harm == "meta":
        (folder / store.META).write_text('{"files"')
    else:
        (folder / store.META).unlink()
        if harm == "empty folder":
            path.unlink()
    assert store.open_or_build("a", "d" * 64, make) == folder
    assert store.is_sound(folder)
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]


def test_a_failing_build_leaves_nothing(cache):
    def broken():
        raise RunError("line 3 is broken")

    with pytest.raises(RunError, match="line 3"):
        store.open_or_build("a", "d" * 64, broken)
    assert not cache.exists() or not list(cache.iterdir())


def test_a_full_disk_is_one_sentence_and_leaves_nothing(cache, monkeypatch):
    def full(file, array):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(RunError, match=r"No space left.*RTX_LAB_CACHE") as caught:
        store.open_or_build("a", "d" * 64, make)
    assert "\n" not in str(caught.value)
    assert not list(cache.iterdir())


def test_an_unusable_cache_folder_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RTX_LAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(RunError, match="RTX_LAB_CACHE"):
        store.open_or_build("a", "d" * 64, make)


def build_once(number):
    folder = store.open_or_build("a", "d" * 64, make)
    return store.is_sound(folder), os.listdir(folder.parent)


def test_builders_at_the_same_time_agree(cache):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        results = pool.map(build_once, range(16), chunksize=1)
    assert all(sound for sound, _ in results)
    assert len(os.listdir(cache)) == 1


def test_a_split_is_read_from_disk_and_pickled_by_its_folder():
    split = reasoning(**SMALL).split("train")
    again = pickle.loads(pickle.dumps(split))
    assert len(pickle.dumps(split)) < 500
    assert len(again) == 60
    assert np.array_equal(again.source(5), split.source(5))
    assert isinstance(again, Split)
    assert again.record(7) == split.record(7)


def test_broken_rows_do_not_reach_the_cache(cache, monkeypatch):
    dataset = reasoning(**SMALL)
    items = dataset.sources["train"].items()
    monkeypatch.setattr(type(dataset.sources["train"]), "items", lambda self: [])
    with pytest.raises(RunError, match="no rows"):
        dataset.split("train")
    assert not cache.exists() or not list(cache.iterdir())
    assert items


def test_ids_beyond_a_vocabulary_are_refused_with_the_row():
    dataset = reasoning(**SMALL)
    dataset.check_vocabulary(dataset.vocab_size)
    split = dataset.split("train")
    first = next(row for row in range(60) if split.source(row).max() >= 60)
    with pytest.raises(RunError, match=rf"Row {first} \(train-{first}\) of reasoning/train .*model.vocab_size"):
        dataset.check_vocabulary(60)


def test_the_meta_file_is_json_with_a_digest_per_array():
    folder = reasoning(**SMALL).split("test").folder
    files = json.loads((folder / store.META).read_text())["files"]
    assert set(files) == {path.name for path in folder.glob("*.npy")}
    assert len(files) == 9
