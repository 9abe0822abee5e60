"""Checks of names and texts that users read and programs look for. Run by test_wording.py."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.events import Events
from tests.process.group_checks import default_group
from torch.profiler import ProfilerActivity, profile

import fastgpu_comm


def profiler_names() -> None:
    """The names that torch's tests look for: the user's names, but for recvAnySource."""
    rank, world = me_and_world()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        if rank == 0:
            dist.recv(torch.zeros(1))
        elif rank == 1:
            dist.send(torch.ones(1), 0)
        dist.all_gather_into_tensor(torch.ones(world), torch.ones(1))
        dist.reduce_scatter_tensor(torch.ones(1), torch.ones(world))
    names = {event.name for event in recorded.events()}
    wanted = {"fastgpu:all_gather_into_tensor", "fastgpu:reduce_scatter_tensor"}
    if rank < 2:
        wanted.add("fastgpu:send" if rank == 1 else "fastgpu:recvAnySource")
    assert wanted <= names, names


def user_names() -> None:
    """Errors name the call as the user does."""
    _, world = me_and_world()
    ones = torch.ones(3 * world)
    calls: dict[str, Callable[[], object]] = {
        "all_gather_into_tensor": lambda: dist.all_gather_into_tensor(ones, torch.ones(2)),
        "reduce_scatter_tensor": lambda: dist.reduce_scatter_tensor(torch.ones(2), ones),
        "recv": lambda: dist.recv(torch.ones(1).expand(4)),
        "all_reduce": lambda: dist.all_reduce(torch.eye(3).to_sparse(), dist.ReduceOp.MAX),
    }
    for name, call in calls.items():
        with pytest.raises(fastgpu_comm.InvalidArgumentError, match=f"^{name}: ") as caught:
            call()
        assert caught.value.op == name


def no_time_at_all() -> None:
    """An explicit time-out of zero means none, not the default."""
    rank, world = me_and_world()
    events = Events()
    group = dist.new_group(list(range(world)))
    backend: Any = group._get_backend(torch.device("cpu"))
    if rank == 0:
        pattern = r"Rank 0 timed out in monitoredBarrier after 0 ms; not there yet: 1, 2; look at "
        with pytest.raises(fastgpu_comm.CollectiveTimeoutError, match=pattern):
            fastgpu_comm.monitored_barrier(group, timedelta(0))
        options = dist.AllreduceOptions()
        options.timeout = timedelta(0)
        work = backend.allreduce([torch.ones(4)], options)
        with pytest.raises(fastgpu_comm.CollectiveTimeoutError):
            work.wait()
        events.set("failed")
    events.wait("failed")


def monitored_barrier_texts() -> None:
    """They begin with gloo's words, and name hosts and the group, also with one missing rank."""
    rank, world = me_and_world()
    events = Events()
    group = dist.new_group(list(range(world)), group_desc="the workers")
    if rank in (1, 2):
        events.wait("rank 0 has failed")
    else:
        name = r"rank 1 \(host \S+, pid \d+\)"
        text = (
            "Rank 1 failed to pass monitoredBarrier in 1000 ms, and so did 2; "
            f"look at {name}, rank 2 .*Seen by rank 0 of group '.+' \\(the workers\\)"
        )
        if rank != 0:
            text = (
                f"Rank {rank} successfully reached monitoredBarrier, but received errors while "
                f"waiting for send/recv from rank 0: {text}"
            )
        with pytest.raises(fastgpu_comm.CollectiveTimeoutError, match=text):
            fastgpu_comm.monitored_barrier(group, timedelta(seconds=1), wait_all_ranks=False)
        if rank == 0:
            events.set("rank 0 has failed")
    for call in (
        lambda: fastgpu_comm.monitored_barrier(timeout=5),  # type: ignore[arg-type]
        lambda: fastgpu_comm.Options(timeout=5),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match=r"must be a datetime.timedelta, such as .*5$"):
            call()


def ranks_of_a_part() -> None:
    """The error of a group of some ranks gives their global ranks, and the user's description."""
    rank, world = me_and_world()
    group = dist.new_group([1, 2], timeout=timedelta(seconds=1), group_desc="the pair")
    events = Events()
    if rank == 1:
        text = (
            r"rank 1 \(global rank 2, host \S+, pid \d+\).*Seen by rank 0 in all_reduce #2 "
            r"of group '.+' \(the pair, global ranks 1, 2\)"
        )
        dist.all_reduce(torch.ones(2), group=group)
        with pytest.raises(fastgpu_comm.CollectiveTimeoutError, match=text):
            dist.all_reduce(torch.ones(2), group=group)
        events.set("failed")
    elif rank == 2:
        dist.all_reduce(torch.ones(2), group=group)
    events.wait("failed")
    assert world > 2


def refused_on_every_rank() -> None:
    """A tensor that some rank would have to write is refused on all ranks, and nothing starts."""
    rank, world = me_and_world()
    shared = torch.ones(1).expand(4)
    uneven = [torch.zeros(peer + 1) for peer in range(world)]
    uneven[-1] = torch.zeros(1).expand(world)
    tensors = [torch.ones(4), shared]
    group: Any = default_group()
    whole = torch.zeros(world)
    calls: tuple[Callable[[], object], ...] = (
        lambda: dist.broadcast(shared, 0),
        lambda: dist.reduce(shared, 0),
        lambda: dist.all_gather(uneven, torch.ones(rank + 1)),
        lambda: group.allreduce_coalesced(tensors),
        lambda: group.allgather_into_tensor_coalesced(
            [whole, torch.zeros(1).expand(world)], [torch.ones(1), torch.ones(1)]
        ),
    )
    before = fastgpu_comm.stats()["operations"]
    for call in calls:
        with pytest.raises(fastgpu_comm.InvalidArgumentError, match="share one place in memory"):
            call()
    assert fastgpu_comm.stats()["operations"] == before
    dist.barrier()
