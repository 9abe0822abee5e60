"""Checks of what torch asks of backends from 2.14 on. Run by test_newer_torch.py."""

from __future__ import annotations

import copy
import json
import threading
import time
import warnings
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.group_checks import default_group
from tests.process.reference import TORCH_VERSION, same
from torch.distributed import distributed_c10d

import fastgpu_comm
from fastgpu_comm.backend import backend_of

SHORT = timedelta(milliseconds=500)


def extra_time() -> None:
    """The extension covers a rank that is late, and ends with the first call after it."""
    rank, world = me_and_world()
    group = dist.new_group(list(range(world)))
    dist.barrier(group=group)
    backend = backend_of(group)
    backend._set_default_timeout(SHORT)
    backend._add_ephemeral_timeout(timedelta(seconds=60))
    if rank == 1:
        time.sleep(3 * SHORT.total_seconds())  # to be later than the time-out
    dist.barrier(group=group)
    if rank == 0:
        with pytest.raises(fastgpu_comm.CollectiveTimeoutError):
            dist.all_reduce(torch.ones(1), group=group)


def work_timeouts() -> None:
    """A work's time-out is the group's or its own, with the extensions that were active."""
    rank, world = me_and_world()
    group = dist.new_group(list(range(world)), timeout=timedelta(seconds=70))
    backend = backend_of(group)
    peer = 1 - rank
    tensors = [torch.zeros(1) for _ in range(3)]
    received: list[Any] = [dist.irecv(tensors[0], peer, group=group, tag=0)]
    backend._add_ephemeral_timeout(timedelta(seconds=5))
    received.append(dist.irecv(tensors[1], peer, group=group, tag=1))
    backend._add_ephemeral_timeout(timedelta(seconds=1))
    received.append(dist.irecv(tensors[2], peer, group=group, tag=2))
    assert [work.timeout.total_seconds() for work in received] == [70, 75, 76]
    dist.barrier()  # in another group: no message arrives before all are received
    dist.send(torch.ones(1), peer, group=group, tag=1)
    received[1].wait()
    later: Any = dist.all_reduce(torch.ones(1), group=group, async_op=True)
    assert later.timeout == timedelta(seconds=71)
    later.wait()
    for tag in (0, 2):
        dist.send(torch.ones(1), peer, group=group, tag=tag)
        received[tag].wait()
    options = dist.AllreduceOptions()
    options.timeout = timedelta(seconds=9)
    own: Any = group.allreduce([torch.ones(1)], options)
    assert own.timeout == timedelta(seconds=9)
    own.wait()


def torchs_private_timeout() -> None:
    """Up to 2.13 torch's _set_pg_timeout does not reach the group, as README says."""
    _, world = me_and_world()
    group = dist.new_group(list(range(world)))
    backend = backend_of(group)
    before = backend.options._timeout
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vars(distributed_c10d)["_set_pg_timeout"](before / 2, group)
    assert backend.options._timeout == (before if TORCH_VERSION < (2, 14) else before / 2)


def abort_hooks() -> None:
    """They run once: before an abort, or after a failure. A removed hook does not run."""
    _, world = me_and_world()
    ranks = list(range(world))
    seen: list[str] = []
    group = dist.new_group(ranks)
    backend = backend_of(group)
    backend.register_abort_hook(1, lambda: seen.append("removed"))
    backend.register_abort_hook(2, lambda: seen.append("kept"))
    backend.unregister_abort_hook(1)
    dist.barrier(group=group)
    dist.barrier()  # in another group: no rank aborts before all have left the first
    assert seen == []
    group.abort()
    group.abort()
    assert seen == ["kept"]


def failure_hooks() -> None:
    """The hooks of a rank whose operation fails run, on another thread."""
    rank, world = me_and_world()
    group = dist.new_group(list(range(world)))
    dist.barrier(group=group)
    if rank == 0:
        ran = threading.Event()
        backend = backend_of(group)
        backend._set_default_timeout(SHORT)
        backend.register_abort_hook(7, ran.set)
        work = dist.irecv(torch.zeros(1), 1, group=group)
        assert work is not None
        with pytest.raises(fastgpu_comm.CollectiveTimeoutError):
            work.wait()
        assert ran.wait(timeout=60)


def time_estimates() -> None:
    """Calls are priced, not carried out: rank 0 makes them alone, and no tensor changes."""
    rank, world = me_and_world()
    if rank == 0:
        estimates = []
        for count in (1, 1 << 20):
            tensor = torch.ones(count)
            with dist._time_estimator() as estimate:
                dist.all_reduce(tensor)
                dist.send(tensor, 1)
            same(tensor, torch.ones(count))
            estimates.append(estimate.estimated_time)
        assert 0 < estimates[0] < estimates[1]
        with dist._time_estimator(), pytest.raises(ValueError, match="sparse"):
            dist.all_reduce(torch.ones(4).to_sparse())
        with pytest.raises(ValueError, match="has not started an estimate"):
            backend_of()._end_time_estimate()
    tensor = torch.ones(4)
    dist.all_reduce(tensor)
    same(tensor, torch.full((4,), float(world)))


def options_clone() -> None:
    """A child gets a copy of its parent's options, fields and all, and may change it."""
    rank, world = me_and_world()
    options = fastgpu_comm.Options(algorithm="ring", timeout=timedelta(seconds=70))
    twin = copy.copy(options)  # by clone()
    assert type(twin) is fastgpu_comm.Options
    twin.algorithm = "tree"
    assert (twin._timeout, options.algorithm) == (options._timeout, "ring")
    group: Any = dist.new_group(list(range(world)), pg_options=options)
    before = options_of(group)
    child = group.split_group([rank], timeout=timedelta(seconds=20), group_name=f"child {rank}")
    assert child is not None
    assert options_of(child) == (timedelta(seconds=20), "ring", [rank], f"child {rank}")
    assert options_of(group) == before == (timedelta(seconds=70), "ring", [0, 1], group.group_name)


def options_of(group: dist.ProcessGroup) -> tuple[timedelta, str | None, list[int], str]:
    """Returns the options of a group's backend that a split may change."""
    options: Any = backend_of(group).options
    ranks = list(options.global_ranks_in_group)
    return options._timeout, options.algorithm, ranks, options.group_name


def options_of_a_split() -> None:
    """The options that a caller hands to a split stay as they are."""
    rank, _ = me_and_world()
    options: Any = fastgpu_comm.Options(algorithm="tree", timeout=timedelta(seconds=70))
    short = timedelta(seconds=20)
    group: Any = default_group()
    child = group.split_group([rank], opts=options, timeout=short, group_name="a child")
    assert child is not None
    assert options_of(child) == (short, "tree", [rank], "a child")
    left = options._timeout, options.global_ranks_in_group, options.group_name
    assert left == (timedelta(seconds=70), [], "")


def is_initialized() -> None:
    """The ranks of a group are connected before its first call, so it can be split at once."""
    rank, world = me_and_world()
    group: Any = dist.new_group(list(range(world)))
    assert backend_of(group)._is_initialized()
    child = group.split_group(list(range(world)), group_name=f"split of {group.group_name}")
    assert child is not None
    assert backend_of(child)._is_initialized()
    tensor = torch.full((3,), float(rank))
    child.allreduce([tensor]).wait()
    same(tensor, torch.full((3,), world * (world - 1) / 2))


def single_names() -> None:
    """The names that torch 2.14 gave to the collectives on one tensor per side."""
    rank, world = me_and_world()
    group: Any = default_group()
    mine = torch.full((2,), float(rank))
    all_ranks = torch.arange(world).repeat_interleave(2).float()
    whole = torch.zeros(2 * world)
    group.all_gather_single(whole, mine).wait()
    same(whole, all_ranks)
    part = torch.zeros(2)
    group.reduce_scatter_single(part, whole).wait()
    same(part, mine * world)
    exchanged = torch.zeros(2 * world)
    group.all_to_all_single(exchanged, torch.full((2 * world,), float(rank)), [], []).wait()
    same(exchanged, all_ranks)
    gathered = torch.zeros(2 * world) if rank == 1 else None
    vars(dist)["gather_single"](mine, gathered, dst=1)  # in no stub before torch 2.14
    if gathered is not None:
        same(gathered, all_ranks)


def flight_recorder() -> None:
    """Torch's recorder learns from the completion hooks which calls have completed."""
    import torch._C._distributed_c10d as c10d

    rank, world = me_and_world()
    group = dist.new_group(list(range(world)))
    dist.all_reduce(torch.ones(4), group=group)
    pending = dist.irecv(torch.zeros(1), 1 - rank, group=group)
    trace = json.loads(vars(c10d)["_dump_fr_trace_json"](backend="fastgpu"))
    # An earlier group of this process may have had the same name.
    states = [
        entry["state"]
        for entry in trace["entries"]
        if entry["process_group"][0] == group.group_name
    ][-2:]
    assert "completed" in states[0], states
    assert "completed" not in states[1], states
    dist.send(torch.ones(1), 1 - rank, group=group)
    assert pending is not None
    pending.wait()
