"""Checks of graphs of the pretended device, run by test_devices.py on every rank."""

from __future__ import annotations

import time

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.device_checks import DEVICE, TYPE, new_group, start
from tests.process.reference import same

import fastgpu_comm


def captured_calls() -> None:
    """Collectives of a graph run in every replay, between calls that are not captured."""
    if TYPE != "pretended":
        pytest.skip("ranks that share a GPU have no lanes, so nothing of theirs can be captured")
    device = start()
    rank, world = me_and_world()
    group = new_group()
    small, large = torch.zeros(7, device=DEVICE), torch.zeros(9000, device=DEVICE)
    parts = torch.zeros(world, 500, device=DEVICE)
    swapped = torch.zeros_like(parts)
    device.begin_capture()
    with pytest.raises(fastgpu_comm.InvalidArgumentError, match="one call before the capture"):
        dist.all_reduce(small, group=group)
    device.end_capture()
    dist.all_reduce(small, group=group)
    device.begin_capture()
    dist.all_reduce(small, group=group)
    work = dist.all_reduce(large, group=group, async_op=True)
    work.wait()
    dist.all_gather_into_tensor(parts, parts[rank], group=group)
    dist.all_to_all_single(swapped, parts, group=group)
    with pytest.raises(fastgpu_comm.InvalidArgumentError, match="cannot be captured in a graph"):
        dist.all_to_all_single(swapped, parts, [1] * world, [1] * world, group=group)
    with pytest.raises(fastgpu_comm.InvalidArgumentError, match="pass single tensors"):
        dist.all_gather(list(parts), parts[rank], group=group)
    graph = device.end_capture()
    for turn in range(3):
        small.fill_(rank + turn)
        large.fill_(rank - turn)
        parts.fill_(rank)
        graph.replay()
        same(small.cpu(), torch.full((7,), float(sum(rank + turn for rank in range(world)))))
        same(large.cpu(), torch.full((9000,), float(sum(rank - turn for rank in range(world)))))
        same(parts[:, 0].cpu(), torch.arange(float(world)))
        same(swapped[:, 0].cpu(), torch.full((world,), float(rank)))
        dist.all_reduce(large, group=group)


def memory_dropped_in_a_capture() -> None:
    """It is not used again, since replays use it; memory that is dropped later is."""
    if TYPE != "pretended":
        pytest.skip("ranks that share a GPU have no lanes, so nothing of theirs can be captured")
    device = start()
    rank, world = me_and_world()
    group = new_group()
    dist.all_reduce(torch.ones(1, device=DEVICE), group=group)
    result = torch.zeros(50_000, device=DEVICE)
    device.begin_capture()
    within = fastgpu_comm.empty(50_000, device=DEVICE)
    address = within.data_ptr()
    within.fill_(float(rank))
    dist.all_reduce(within, group=group)
    result.copy_(within)
    del within
    graph = device.end_capture()
    later = fastgpu_comm.empty(50_000, device=DEVICE)
    freed = later.data_ptr()
    del later
    deadline = time.monotonic() + 30
    while (again := fastgpu_comm.empty(50_000, device=DEVICE)).data_ptr() != freed:
        assert again.data_ptr() != address
        assert time.monotonic() < deadline
    again.fill_(-1.0)
    graph.replay()
    same(result.cpu(), torch.full((50_000,), float(sum(range(world)))))
    same(again.cpu(), torch.full((50_000,), -1.0))
