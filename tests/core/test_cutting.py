"""Smaller pieces of the same samples: by samples and by tokens, with what is done kept and every failure told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rtx_lab.core.cutting import BY_SAMPLES, TOKENS_KEPT, by_tokens, in_pieces, once_more, shape
from rtx_lab.core.memory import OutOfMemory


def batch_of(size):
    return {"x": torch.arange(size), "y": torch.arange(size)[:, None]}


def texts(*lengths, longest=None):
    """Rows of ones, zeros behind them."""
    used = torch.arange(longest or max(lengths)) < torch.tensor(lengths)[:, None]
    return {"index": torch.arange(len(lengths)), "text": used.long()}


def text_lengths(batch):
    return batch["text"].sum(1, keepdim=True).numpy()


def trimmed(batch):
    return batch | {"text": batch["text"][:, : int(text_lengths(batch).max())]}


BY_TOKENS = by_tokens(text_lengths, trimmed)


def out_of_memory_beyond(most, done):
    """Work that fails on a piece of more than `most` positions."""

    def work(piece):
        if piece["text"].numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        done.append(list(piece["text"].shape))
        return piece["index"].tolist()

    return work


def test_halving_keeps_what_is_done_and_remembers_the_size():
    calls, released, told = [], [], []

    def work(piece):
        calls.append(len(piece["x"]))
        if len(piece["x"]) > 3 and int(piece["x"][0]) >= 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return piece["x"].tolist()

    results, limit = in_pieces(work, batch_of(10), 4, BY_SAMPLES, lambda: released.append(1), told.append)
    assert results == list(range(10))
    assert calls == [4, 4, 2, 2, 2]
    assert (limit, len(released)) == (2, 1)
    assert told == [{"event": "out_of_memory", "micro_batch": 4, "retried_with": 2, "shape": [4, 1]}]


@pytest.mark.parametrize("cutting", [BY_SAMPLES, BY_TOKENS])
def test_one_sample_that_does_not_fit_is_the_end(cutting):
    def work(piece):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def broken(piece):
        raise ZeroDivisionError

    batch = texts(*[5] * 8)
    with pytest.raises(OutOfMemory, match="one sample"):
        in_pieces(work, batch, None, cutting, lambda: None, lambda _: None)
    with pytest.raises(ZeroDivisionError):
        in_pieces(broken, batch, None, cutting, lambda: None, lambda _: None)


def test_pieces_by_tokens_stay_within_one_batch_and_lose_their_padding():
    batches = [texts(3, 8, 9, 30), texts(5, 5)]
    cut = list(BY_TOKENS.cut(batches, 40))
    assert [piece["text"].sum(1).tolist() for piece in cut] == [[3, 8], [9], [30], [5, 5]]
    assert [list(piece["text"].shape) for piece in cut] == [[2, 8], [1, 9], [1, 30], [2, 5]]
    assert cut[-1] is batches[1]
    assert [piece is batch for piece, batch in zip(BY_TOKENS.cut(batches, None), batches, strict=True)] == [True, True]


def test_tokens_fall_by_a_share_and_never_below_one_sample():
    done, told = [], []
    results, limit = in_pieces(
        out_of_memory_beyond(100, done), texts(*[40] * 10), None, BY_TOKENS, lambda: None, told.append
    )
    assert results == list(range(10))
    assert limit == told[-1]["retried_with"] >= 40
    assert [event["retried_with"] for event in told] == [int(TOKENS_KEPT * event["micro_tokens"]) for event in told]
    assert told[0] | {"retried_with": 0} == {
        "event": "out_of_memory", "micro_tokens": 400, "retried_with": 0, "shape": [10, 40],
    }  # fmt: skip
    assert done == [[2, 40]] * 5


def test_only_what_can_be_cut_is_asked_to_be_smaller():
    tried = [texts(500), texts(20, 20, 20), texts(30, 31)]
    largest, limit = BY_TOKENS.smaller(tried)
    assert largest is tried[1]
    assert limit == int(TOKENS_KEPT * 72)
    with pytest.raises(OutOfMemory):
        BY_TOKENS.smaller([texts(500), texts(3)])


def test_a_shape_names_samples_and_lengths():
    zeros = {name: torch.zeros(8, size) for name, size in (("source", 512), ("source_mask", 512), ("labels", 128))}
    assert shape({"index": torch.zeros(8), **zeros}) == [8, 512, 128]


def test_what_cannot_be_cut_is_tried_twice():
    seen = []

    def fails_at(*calls):
        def work():
            seen.append("work")
            if seen.count("work") in calls:
                raise MemoryError
            return "done"

        return work

    assert once_more(fails_at(1), lambda: seen.append("released"), lambda: seen.append("told")) == "done"
    assert seen == ["work", "released", "told", "work"]
    seen.clear()
    with pytest.raises(MemoryError):
        once_more(fails_at(1, 2), lambda: None, lambda: None)
    with pytest.raises(ZeroDivisionError):
        once_more(lambda: 1 / 0, lambda: seen.append("released"), lambda: None)
    assert "released" not in seen


def test_lengths_are_read_from_arrays():
    assert BY_TOKENS.size(texts(3, 9)) == 2 * 16
    assert isinstance(text_lengths(texts(3)), np.ndarray)
