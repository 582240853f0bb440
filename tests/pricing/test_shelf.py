"""Traces on disk: read back as they were traced, and passed over when damaged, foreign or of other code."""

import json
import os

import pytest

from rtx_lab.pricing import shelf
from rtx_lab.pricing import trace as tracing
from rtx_lab.pricing.trace import keep_on_disk, trace


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A cache of its own, and a process that has traced nothing yet and asks anew what code it runs."""
    monkeypatch.setenv("RTX_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tracing, "_traces", {})
    monkeypatch.setattr(tracing, "_unkept", {})
    shelf._code_at_first.cache_clear()
    yield tmp_path / "cache"
    shelf._code_at_first.cache_clear()


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A package of two files, older than this process, in the place of ours."""
    for name in ("nn/maps.py", "sweep/plan.py"):
        path = tmp_path / "package" / name
        path.parent.mkdir(parents=True)
        path.write_text("a = 1\n")
        os.utime(path, (1e9, 1e9))
    monkeypatch.setattr(shelf, "_SOURCES", tmp_path / "package")
    return tmp_path / "package"


def _rewrite(path, text, mtime=1e9):
    path.write_text(text)
    os.utime(path, (mtime, mtime))
    shelf._code_at_first.cache_clear()


def _entries(place):
    return sorted(place.rglob("*.json"))


def _trace_here(settled, *overrides):
    run = settled(*overrides).run
    return trace(run, run.budget.micro_batch)


def test_a_kept_trace_is_the_one_that_was_traced(settled, place, sources, monkeypatch):
    small = ("model.num_slots=8", "model.d_model=16", "model.bilinear_rank=4", "budget.micro_batch=4")
    first = _trace_here(settled, *small)
    assert not place.exists(), "looking writes nothing"
    keep_on_disk()
    (entry,) = _entries(place)
    assert not list(entry.parent.glob(".*")), "nothing half-written stays"
    tracing._traces.clear()
    monkeypatch.setattr(tracing, "_trace", lambda *_: pytest.fail("it was traced again"))
    assert _trace_here(settled, *small, "seed=7") == first
    before = entry.stat().st_mtime_ns
    keep_on_disk()
    assert entry.stat().st_mtime_ns == before, "what came from disk is not written again"


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "list", "other key"])
def test_a_damaged_entry_is_passed_over_and_written_anew(place, sources, damage):
    shelf.write("a shape", {"weights": 1234567})
    assert shelf.read("a shape") == {"weights": 1234567}
    (entry,) = _entries(place)
    text = entry.read_text()
    record = json.loads(text)
    broken = {"cut": text[:-9], "changed": text.replace("1234567", "1234568"), "empty": "", "list": "[]"}
    entry.write_text(broken.get(damage) or json.dumps(record | {"key": "another"}))
    assert shelf.read("a shape") is None
    shelf.write("a shape", {"weights": 1234567})
    assert shelf.read("a shape") == {"weights": 1234567}


def test_an_entry_counts_for_the_code_and_the_packages_that_made_it(place, sources, monkeypatch):
    shelf.write("a shape", {"weights": 1})
    _rewrite(sources / "sweep" / "plan.py", "a = 2\n")
    assert shelf.read("a shape") == {"weights": 1}, "what stands above decides no trace"
    _rewrite(sources / "nn" / "maps.py", "a = 2\n")
    assert shelf.read("a shape") is None
    _rewrite(sources / "nn" / "maps.py", "a = 1\n")
    assert shelf.read("a shape") == {"weights": 1}
    monkeypatch.setattr(shelf, "versions", lambda: {"torch": "another"})
    shelf._code_at_first.cache_clear()
    assert shelf.read("a shape") is None


def test_code_that_changed_while_this_process_runs_is_neither_read_nor_written_for(place, sources):
    shelf.write("a shape", {"weights": 1})
    _rewrite(sources / "nn" / "maps.py", "a = 1\n", mtime=4e9)
    assert shelf.read("a shape") is None
    shelf.write("another shape", {"weights": 1})
    assert len(_entries(place)) == 1


def test_a_cache_that_cannot_be_written_is_no_error(place, sources):
    place.write_text("a file")
    shelf.write("a shape", {"weights": 1})
    assert shelf.read("a shape") is None
