"""The meter of tensor memory against the allocator's own events, where a mode changes what autograd does."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from rtx_lab.core.live_bytes import LiveBytes

ROWS = 1 << 16


def gradients_meet(x):
    """Three gradients of x are added up."""
    return (x.sin() + x.cos() + x.tanh()).sum()


def gradients_are_scattered(x):
    index = torch.arange(8).repeat(ROWS // 64)
    return x.view(64, -1).index_select(0, index % 64).sum() + x.gather(0, torch.zeros(4, dtype=torch.int64)).sum()


def allocator_peak(work):
    x = torch.rand(ROWS, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work(x).backward()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("work", [gradients_meet, gradients_are_scattered])
def test_gradients_are_counted_as_they_are_written_without_a_mode(work):
    x = torch.rand(ROWS, requires_grad=True)
    with LiveBytes() as real:
        work(x).backward()
    with FakeTensorMode():
        x = torch.rand(ROWS, requires_grad=True)
        with LiveBytes() as fake:
            work(x).backward()
    assert fake.peak == real.peak
    assert real.peak == pytest.approx(allocator_peak(work), rel=1e-3)


def test_a_sum_of_ones_own_is_no_gradient():
    x = torch.rand(ROWS)
    with LiveBytes() as live, torch.no_grad():
        held = x + 1
        held = held + 1
    assert live.peak == 2 * 4 * ROWS
    assert live.now == 4 * ROWS
    assert held.numel() == ROWS


def test_blocks_round_up_and_parts_are_counted_apart():
    with LiveBytes(block=512, apart=lambda tensor: tensor.shape[-1] == 3) as live:
        kept = [torch.ones(3), torch.ones(200)]
    assert (live.peak, live.apart_at_peak) == (512 + 1024, 512)
    assert len(kept) == 2


def test_every_operator_is_shown():
    seen = []
    with LiveBytes(observe=lambda func, tensors, *_: seen.append((str(func), len(tensors)))):
        torch.ones(2, 3) @ torch.ones(3, 2)
    assert ("aten.mm.default", 3) in seen
