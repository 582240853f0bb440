"""Out of memory: recognised by type and text, answered with smaller pieces, avoided by looking first."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toy_training import ToyModel, ToyTask, host

from rtx_lab.core import memory
from rtx_lab.core.device import GB
from rtx_lab.core.memory import LiveBytes

OURS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 23.69 GiB total capacity)"),
    MemoryError(),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: not enough memory: you tried to"),
]
NOT_OURS = [
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"),
    ValueError("out of memory"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", OURS)
def test_out_of_memory_is_recognised(error):
    assert memory.is_out_of_memory(error)


@pytest.mark.parametrize("error", NOT_OURS)
def test_other_errors_are_not(error):
    assert not memory.is_out_of_memory(error)


def test_a_real_failure_of_the_cpu_allocator_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert memory.is_out_of_memory(caught.value)


def batch_of(size):
    return {"x": torch.arange(size), "y": torch.arange(size)[:, None]}


def test_pieces_cover_a_batch_in_order():
    cut = list(memory.pieces([batch_of(7), batch_of(2)], 3))
    assert [piece["x"].tolist() for piece in cut] == [[0, 1, 2], [3, 4, 5], [6], [0, 1]]
    assert all(piece["x"].tolist() == piece["y"][:, 0].tolist() for piece in cut)
    whole = batch_of(7)
    assert next(memory.pieces([whole], None)) is whole


def test_live_bytes_follow_what_lives():
    with LiveBytes() as live:
        a = torch.ones(1000)
        b = a * 2
        view = b[10:]
        assert live.now == 8000
        del a
        assert live.now == 4000
        c = view + 1
        del b
        assert live.now == 8000 - 40  # the view keeps all of b
        del view
        assert live.now == 4000 - 40
        c.mul_(3)
    assert live.peak == 8000


def test_the_largest_divisor_that_fits():
    def bytes_of(size):
        return 100 + 10 * size

    assert memory.largest_micro_batch(64, bytes_of, 100 + 640) == 64
    assert memory.largest_micro_batch(64, bytes_of, 100 + 639) == 32
    assert memory.largest_micro_batch(60, bytes_of, 100 + 199) == 15
    assert memory.largest_micro_batch(64, bytes_of, 0) == 1
    assert memory.largest_micro_batch(7, bytes_of, 100 + 69) == 1
    assert memory.largest_micro_batch(7, bytes_of, 100 + 70) == 7
    assert memory.largest_micro_batch(1, bytes_of, 0) == 1


class Heavy(nn.Module):
    """Needs 4 MB more for every sample."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, ids):
        return (self.scale * torch.ones(len(ids), 1_000_000)).sum(1)


class HeavyTask(ToyTask):
    def loss(self, model, batch):
        return model(batch["source"]).sum(), {}


def test_auto_fills_the_memory_it_is_told_and_says_the_same_twice():
    class Told:
        is_cuda, move, autocast = False, staticmethod(host().move), host().autocast

        def __init__(self, gb):
            self.memory_gb = gb

    fixed = memory.PROCESS_BYTES / GB
    sizes = {}
    for gb in (0.02, 0.06, 0.12):
        told = Told((fixed + gb) / memory.USABLE)
        model = Heavy()
        sizes[gb] = memory.fit_micro_batch(model, HeavyTask(), told, 16, state_bytes=0)
        assert model.scale.grad is None
        assert memory.fit_micro_batch(model, HeavyTask(), told, 16, state_bytes=0) == sizes[gb]
    assert sizes[0.02] < sizes[0.06] < sizes[0.12]
    peak = memory._cpu_peak(Heavy(), HeavyTask(), Told(1), sizes[0.06])
    assert peak <= 0.06 * GB < memory._cpu_peak(Heavy(), HeavyTask(), Told(1), 2 * sizes[0.06])


@pytest.mark.parametrize("gb", [0.02, 0.06, 1.0])
def test_auto_tokens_fill_the_memory_with_samples_of_the_largest_shape(gb):
    class Told:
        is_cuda, move, autocast = False, staticmethod(host().move), host().autocast
        memory_gb = (memory.PROCESS_BYTES / GB + gb) / memory.USABLE

    def tokens(batch):
        return 100 * len(batch["source"])

    model, told = Heavy(), Told()
    found = memory.fit_micro_tokens(model, HeavyTask(), told, 16, 0, tokens)
    assert found == memory.fit_micro_tokens(model, HeavyTask(), told, 16, 0, tokens)
    assert model.scale.grad is None
    per_sample = memory._cpu_peak(Heavy(), HeavyTask(), told, 1)
    most = min(16, int(gb * GB / per_sample))
    assert found == 1600 if most == 16 else 0.8 * most <= found / 100 <= most
    assert memory.fit_micro_tokens(model, HeavyTask(), told, 16, gb * GB, tokens) == 100, "never less than one sample"


def test_auto_leaves_room_for_the_optimizer():
    device = host()
    free = memory.USABLE * device.memory_gb * GB - memory.PROCESS_BYTES
    model = ToyModel()
    assert memory.fit_micro_batch(model, ToyTask(), device, 12, state_bytes=0) == 12
    assert memory.fit_micro_batch(model, ToyTask(), device, 12, state_bytes=free) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_auto_on_a_gpu():
    from rtx_lab.core.device import setup
    from rtx_lab.core.schema import Hardware

    device = setup(Hardware(device="cuda", precision="fp32", memory_gb=2, num_threads=1))
    size = memory.fit_micro_batch(Heavy().to("cuda"), HeavyTask(), device, 64, state_bytes=0)
    assert 1 < size < 64
