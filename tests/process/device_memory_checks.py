"""Checks of the memory of tensors on GPUs, run by test_devices.py on every rank."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.device_checks import (
    DEVICE,
    TYPE,
    WAIT_MS,
    device_module,
    new_group,
    start,
)
from tests.process.reference import same

import fastgpu_comm
from fastgpu_comm import native


def lifetimes() -> None:
    """A tensor that its caller drops is neither freed nor reused before the call is done with it.

    Freed memory is overwritten here, so peers would read or send what was not given.
    """
    device = start()
    rank, world = me_and_world()
    group = new_group()
    for size in (100, 300_000):
        results = []
        works = []
        for turn in range(6):
            device.sleep(3)
            given = torch.full((size,), float(rank * 10 + turn), device=DEVICE)
            results.append(torch.zeros(world * size, device=DEVICE))
            works.append(
                dist.all_gather_into_tensor(results[-1], given, group=group, async_op=True)
            )
            del given
            torch.full((size,), -1.0, device=DEVICE)  # wants memory of this size
        for turn, (work, result) in enumerate(zip(works, results, strict=True)):
            work.wait()
            expected = torch.cat([torch.full((size,), float(r * 10 + turn)) for r in range(world)])
            same(result.cpu(), expected)
        fresh = []
        for _ in range(6):  # the result is dropped, and its memory wanted, before it is there
            dist.all_reduce(torch.ones(size, device=DEVICE), group=group, async_op=True)
            fresh.append(torch.full((size,), -1.0, device=DEVICE))
        dist.barrier(group=group)
        device_module().synchronize()
        for tensor in fresh:
            same(tensor.cpu(), torch.full((size,), -1.0))


def destroyed_groups() -> None:
    """A destroyed group frees the memory of its kernels."""
    if TYPE != "pretended":
        pytest.skip("ranks that share a GPU have no lanes, so groups have no memory for them")
    start()

    def segments() -> int:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return sum("fastgpu-pretended" in line for line in lines)

    after = []
    for _ in range(6):
        group = new_group()
        dist.all_reduce(torch.ones(9000, device=DEVICE), group=group)
        device_module().synchronize()
        dist.destroy_process_group(group)
        del group
        after.append(segments())
    assert after[-1] <= after[1], after  # the staging memory of a group alone fills a segment


def symmetric_memory() -> None:
    """Memory of `empty` is reused only after the stream that used it, and collectives take it."""
    device = start()
    rank, world = me_and_world()
    group = new_group()
    for turn in range(10):
        tensor = fastgpu_comm.empty(50_000, device=DEVICE)
        device.sleep(2)
        tensor.fill_(float(rank + turn))
        dist.all_reduce(tensor, group=group)
        result = tensor.clone()
        del tensor
        other = fastgpu_comm.empty(50_000, device=DEVICE)
        with device_module().stream(device_module().Stream()):
            other.fill_(-1.0)  # elsewhere, at once
        same(result.cpu(), torch.full((50_000,), float(sum(r + turn for r in range(world)))))
        device_module().synchronize()
    _memory_of_pools()
    with pytest.raises(fastgpu_comm.InvalidArgumentError, match=f"allowed: cpu and {TYPE}"):
        fastgpu_comm.empty(1, device="meta")
    with pytest.raises(fastgpu_comm.CommError, match="7"):
        fastgpu_comm.empty(1, device=f"{TYPE}:7")


def _memory_of_pools() -> None:
    """What torch's MemPool calls: memory comes back behind the stream in which it is freed."""
    library = ctypes.CDLL(native.path)
    library.fastgpu_device_allocate.restype = ctypes.c_void_p
    size = 40 << 20  # more than other memory that is freed meanwhile can give
    arguments = ctypes.c_size_t(size), ctypes.c_int(0)
    stream = ctypes.c_void_p(device_module().current_stream().native_handle)
    first = library.fastgpu_device_allocate(*arguments, stream)
    assert first
    second = library.fastgpu_device_allocate(*arguments, stream)
    assert abs(second - first) >= size
    device = start()
    device.sleep(WAIT_MS)
    for memory in (first, second):
        library.fastgpu_device_free(ctypes.c_void_p(memory), *arguments, stream)
    third = library.fastgpu_device_allocate(*arguments, stream)
    assert min(abs(third - first), abs(third - second)) >= size  # the stream may use both
    deadline = time.monotonic() + 30
    while min(abs(third - first), abs(third - second)) >= size:
        assert time.monotonic() < deadline
        time.sleep(0.01)
        third = library.fastgpu_device_allocate(*arguments, stream)
    assert library.fastgpu_device_allocate(ctypes.c_size_t(8), ctypes.c_int(7), stream) is None
