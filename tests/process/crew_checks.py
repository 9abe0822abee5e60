"""What every rank of a world with several engine threads does, or with bound processors."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world

import fastgpu_comm

COUNT = 300_000  # of float32: four lanes have more than the 64 KiB that a crew comes for


def _values(rank: int, symmetric: bool) -> torch.Tensor:
    made = fastgpu_comm.empty(COUNT) if symmetric else torch.empty(COUNT)
    return made.copy_(torch.arange(COUNT) % 1000 + rank)


def large_collectives() -> None:
    """Every collective that moves much, from private and from symmetric memory."""
    rank, world = me_and_world()
    for symmetric in (False, True):
        base = torch.arange(COUNT) % 1000
        mine = _values(rank, symmetric)
        work = dist.all_reduce(mine, async_op=True)
        assert work is not None
        work.wait()
        total = base * world + world * (world - 1) // 2
        assert torch.equal(mine, total.float())
        mine = _values(rank, symmetric)
        parts = [torch.empty(COUNT) for _ in range(world)]
        dist.all_gather(parts, mine)
        for other, part in enumerate(parts):
            assert torch.equal(part, (base + other).float())
        dist.broadcast(mine, 1)
        assert torch.equal(mine, (base + 1).float())
        share = torch.empty(COUNT // world)
        whole = _values(rank, symmetric)[: share.numel() * world]
        dist.reduce_scatter_tensor(share, whole)
        assert torch.equal(share, total[: whole.numel()].chunk(world)[rank].float())
        swapped = torch.empty_like(whole)
        dist.all_to_all_single(swapped, whole)
        own = base[: whole.numel()].chunk(world)[rank]
        for other, part in enumerate(swapped.chunk(world)):
            assert torch.equal(part, (own + other).float())


def bound_to_shares(given: list[int]) -> None:
    """Each rank has a share of what was given, on which its engine's thread and helper run, too."""
    rank, world = me_and_world()
    work = dist.all_reduce(torch.ones(COUNT), async_op=True)
    assert work is not None
    work.wait()
    mine = sorted(os.sched_getaffinity(0))
    shares: list[list[int]] = [[] for _ in range(world)]
    dist.all_gather_object(shares, mine)
    assert shares[rank] == mine
    assert sorted({cpu for share in shares for cpu in share}) == given
    assert sum(map(len, shares)) == max(len(given), world), f"{shares} of {given}"
    threads = [int(task.name) for task in Path("/proc/self/task").iterdir()]
    bound = [thread for thread in threads if sorted(os.sched_getaffinity(thread)) == mine]
    assert len(bound) >= 3, f"of threads {threads} only {bound} run on {mine}"
