"""Checks of messages, works, groups and the package's own names. Run by test_groups.py."""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.reference import TORCH_VERSION, same, values
from torch.profiler import ProfilerActivity, profile

import fastgpu_comm


def default_group() -> dist.ProcessGroup:
    """Returns the default process group."""
    group = dist.group.WORLD
    assert group is not None
    return group


def messages() -> None:
    """Around the ring, small and large, blocking, by tag, from any source, as objects."""
    rank, world = me_and_world()
    following, before = (rank + 1) % world, (rank - 1) % world
    for count in (0, 1, 1000, 3_000_000):
        result = torch.zeros(count)
        if rank % 2 == 0:
            dist.send(values(rank, torch.float32, count), following)
            assert dist.recv(result, before) == before
        else:
            assert dist.recv(result, before) == before
            dist.send(values(rank, torch.float32, count), following)
        same(result, values(before, torch.float32, count))

    sent = [dist.isend(torch.tensor([rank, tag]), following, tag=tag) for tag in (1, 2, 3)]
    for tag in (3, 1, 2):
        number = torch.zeros(2, dtype=torch.int64)
        dist.recv(number, before, tag=tag)
        assert number.tolist() == [before, tag]
    for work in sent:
        assert work is not None
        work.wait()

    if rank == 0:
        number = torch.zeros(1, dtype=torch.int64)
        sources = {dist.recv(number): int(number) for _ in range(world - 1)}
        assert sources == {peer: peer for peer in range(1, world)}
        dist.send_object_list(["for", rank], 1)
    else:
        dist.send(torch.tensor([rank]), 0)
    if rank == 1:
        objects: list[object] = [None, None]
        dist.recv_object_list(objects, 0)
        assert objects == ["for", 0]


def batches() -> None:
    """batch_isend_irecv, in an order that would block were it not a batch."""
    rank, world = me_and_world()
    following, before = (rank + 1) % world, (rank - 1) % world
    for count in (5, 1_000_000):
        result = torch.zeros(count)
        operations = [
            dist.P2POp(dist.irecv, result, before),
            dist.P2POp(dist.isend, values(rank, torch.float32, count), following),
        ]
        works = dist.batch_isend_irecv(operations)
        assert len(works) == 2
        for work in works:
            work.wait()
        same(result, values(before, torch.float32, count))


def messages_beside_collectives() -> None:
    """An irecv before an all-reduce here, an all-reduce before the send there."""
    rank, world = me_and_world()
    result = torch.zeros(100_000)
    total = torch.ones(100_000)
    if rank == 0:
        work = dist.irecv(result, 1)
        assert work is not None
        dist.all_reduce(total)
        work.wait()
        same(result, torch.full((100_000,), 7.0))
    else:
        dist.all_reduce(total)
        if rank == 1:
            dist.send(torch.full((100_000,), 7.0), 0)
    same(total, torch.full((100_000,), float(world)))


def many_outstanding() -> None:
    """Hundreds of operations at once, of many sizes, waited for out of order."""
    rank, world = me_and_world()
    tensors = [torch.full((17 * number + 1,), rank + number + 0.0) for number in range(300)]
    works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
    for number in reversed(range(300)):
        work = works[number]
        assert work is not None
        work.wait()
        assert work.is_completed()
        assert work.is_success()
        expected = world * number + world * (world - 1) / 2
        same(tensors[number], torch.full((17 * number + 1,), expected))


def futures() -> None:
    """Values, chains, chains that start a collective and wait for it, and results."""
    rank, world = me_and_world()
    group = default_group()
    tensor = torch.full((50_000,), float(rank))
    work = dist.all_reduce(tensor, async_op=True)
    assert work is not None
    chained = work.get_future().then(lambda done: done.value()[0] + 1)
    same(chained.wait(), torch.full((50_000,), world * (world - 1) / 2 + 1))
    assert work.result()[0] is tensor or torch.equal(work.result()[0], tensor)
    assert dist.barrier(async_op=True).get_future().wait() == []

    def second(done: torch.futures.Future[list[torch.Tensor]]) -> torch.Tensor:
        again = dist.all_reduce(done.value()[0], async_op=True)
        assert again is not None
        waited: torch.Tensor = again.get_future().wait()[0]
        return waited

    for _ in range(10):
        work = dist.all_reduce(torch.ones(30_000), async_op=True)
        assert work is not None
        same(work.get_future().then(second).wait(), torch.full((30_000,), float(world * world)))

    parts = [torch.zeros(3) for _ in range(world)]
    work = group.allgather([parts], [torch.full((3,), float(rank))])
    gathered = work.get_future().wait()
    assert [int(part[0]) for part in gathered] == list(range(world))
    result: Any = group.allreduce([torch.ones(2)])
    assert result.get_future_result().wait() == 0


def future_values_like_gloo() -> None:
    """The value of each operation's future is nested as gloo's, where gloo has one."""
    rank, world = me_and_world()
    gloo = dist.new_group(backend="gloo")
    mine = [torch.full((2,), float(rank)), torch.full((3,), rank + 10.0)]
    calls: dict[str, Callable[[dist.ProcessGroup], Any]] = {
        "allreduce": lambda group: group.allreduce([mine[0].clone()]),
        "allreduce_coalesced": lambda group: group.allreduce_coalesced([t.clone() for t in mine]),
        "broadcast": lambda group: group.broadcast([mine[0].clone()]),
        "allgather": lambda group: group.allgather(
            [[torch.zeros(2) for _ in range(world)]], mine[:1]
        ),
        "allgather_coalesced": lambda group: group.allgather_coalesced(
            [[torch.zeros(2), torch.zeros(3)] for _ in range(world)], mine
        ),
        "alltoall": lambda group: group.alltoall(
            [torch.zeros(2) for _ in range(world)], [mine[0]] * world
        ),
        "barrier": lambda group: group.barrier(),
    }
    for name, call in calls.items():
        if name != "alltoall" or TORCH_VERSION >= (2, 13):  # gloo lacked it
            values = [call(group).get_future().wait() for group in (default_group(), gloo)]
            torch.testing.assert_close(*values, msg=name)
    gathered = calls["allgather_coalesced"](default_group())
    gathered.wait()
    assert [tensor.shape for tensor in gathered.result()] == [(2,), (3,)] * world


def future_failures() -> None:
    """A future of a failed operation raises what its Work would."""
    rank, _ = me_and_world()
    if rank == 0:
        work = dist.irecv(torch.zeros(1), 1)
        assert work is not None
        future = work.get_future()
        default_group().abort()
        with pytest.raises(fastgpu_comm.AbortedError):
            work.wait()
        with pytest.raises(fastgpu_comm.AbortedError):
            future.wait()
        assert not work.is_success()


def profiler() -> None:
    """Our names, and the shapes of the inputs."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        dist.all_reduce(torch.ones(3, 5))
        work = dist.broadcast(torch.ones(7), 0, async_op=True)
        assert work is not None
        work.wait()
        dist.barrier()
    shapes = {event.name: event.input_shapes for event in recorded.events()}
    assert shapes["fastgpu:all_reduce"] == [[3, 5]]
    assert shapes["fastgpu:broadcast"] == [[7]]
    assert "fastgpu:barrier" in shapes


def subgroups() -> None:
    """Groups of two ranks and of one, made by new_group, and one of them destroyed."""
    rank, world = me_and_world()
    pairs = [dist.new_group([peer, (peer + 1) % world]) for peer in range(world - 1)]
    singles = [dist.new_group([peer]) for peer in range(world)]
    for first, group in enumerate(pairs):
        if rank in (first, first + 1):
            tensor = torch.tensor([rank])
            dist.all_reduce(tensor, group=group)
            assert int(tensor) == 2 * first + 1
            dist.broadcast(tensor, first + 1, group=group)
    tensor = torch.tensor([rank])
    dist.all_reduce(tensor, group=singles[rank])
    assert int(tensor) == rank
    if rank in (0, 1):
        dist.destroy_process_group(pairs[0])
    dist.barrier()


def splits() -> None:
    """ProcessGroup.split_group, twice over the same ranks."""
    rank, world = me_and_world()
    group = default_group()
    for _ in range(2):
        ranks = [0, 1] if rank < 2 else [2]
        part = group.split_group(ranks, timeout=timedelta(seconds=20))
        assert part is not None
        assert part.size() == len(ranks)
        tensor = torch.ones(4) * (rank + 1)
        part.allreduce([tensor]).wait()
        same(tensor, torch.full((4,), 3.0))
    assert world == 3
    backend = group._get_backend(torch.device("cpu"))
    assert isinstance(backend, fastgpu_comm.native.Backend)
    assert backend.comm_split_count() == 2
    assert copy.deepcopy(backend.options).transport == backend.options.transport


def groups_in_threads() -> None:
    """Several groups at once, each from a thread of its own."""
    rank, world = me_and_world()
    groups = [dist.new_group(list(range(world))) for _ in range(4)]
    errors: list[BaseException] = []

    def work_on(number: int) -> None:
        try:
            for step in range(40):
                tensor = torch.full((1 + 999 * (step % 3) * number,), float(rank + step))
                dist.all_reduce(tensor, group=groups[number])
                expected = world * step + world * (world - 1) / 2
                same(tensor, torch.full_like(tensor, expected))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work_on, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def group_again() -> None:
    """Destroyed and made again, on the same store, in the same processes."""
    rank, world = me_and_world()
    store = dist.distributed_c10d._get_default_store()
    for _ in range(3):
        tensor = torch.ones(5)
        dist.all_reduce(tensor)
        same(tensor, torch.full((5,), float(world)))
        dist.destroy_process_group()
        dist.init_process_group("fastgpu", store=store, rank=rank, world_size=world)


def sequence_numbers() -> None:
    """Count the collectives, the same on every rank."""
    _, world = me_and_world()
    backend: Any = default_group()._get_backend(torch.device("cpu"))
    before = backend._get_sequence_number_for_group()
    dist.all_reduce(torch.ones(1))
    assert backend._get_sequence_number_for_group() == before + 1
    numbers: list[object] = [None] * world
    dist.all_gather_object(numbers, before)
    assert len(set(numbers)) == 1


def symmetric_memory() -> None:
    """fastgpu_comm.empty: like any tensor, and its memory comes back."""
    rank, world = me_and_world()
    addresses = set()
    for _ in range(3):
        tensor = fastgpu_comm.empty(300, 1000, dtype=torch.float64)
        addresses.add(tensor.data_ptr())
        assert tensor.shape == (300, 1000)
        assert tensor.dtype == torch.float64
        tensor.fill_(rank + 1)
        dist.all_reduce(tensor)
        same(tensor, torch.full((300, 1000), world * (world + 1) / 2, dtype=torch.float64))
        del tensor
        gc.collect()
    assert len(addresses) == 1
    assert fastgpu_comm.empty(0).numel() == 0
    assert fastgpu_comm.empty((2, 3)).shape == (2, 3)  # type: ignore[arg-type]


def statistics() -> None:
    """fastgpu_comm.stats counts operations and bytes."""
    _, world = me_and_world()
    before = fastgpu_comm.stats()
    dist.all_reduce(torch.ones(100_000))
    after = fastgpu_comm.stats()
    assert after["operations"] == before["operations"] + 1
    assert after["bytes_sent"] - before["bytes_sent"] >= 400_000 * (world - 1) // world
    assert after["busy_seconds"] > before["busy_seconds"]


def refused_arguments() -> None:
    """A refused call says why, changes nothing, and leaves the group usable."""
    _, world = me_and_world()
    cases: dict[str, Callable[[], object]] = {
        "BAND is not defined for float32": lambda: dist.all_reduce(
            torch.ones(2), dist.ReduceOp.BAND
        ),
        "world size": lambda: dist.all_gather_into_tensor(torch.ones(3 * world), torch.ones(2)),
        "must be contiguous": lambda: default_group().alltoall_base(
            torch.ones(world, 2).t(), torch.ones(2, world), [], []
        ),
        "does not divide equally": lambda: default_group().alltoall_base(
            torch.ones(world + 1), torch.ones(world + 1), [], []
        ),
        "share one place in memory": lambda: dist.all_reduce(torch.ones(1).expand(4)),
    }
    for words, call in cases.items():
        with pytest.raises(fastgpu_comm.InvalidArgumentError, match=words) as caught:
            call()
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, dist.DistBackendError)
        assert caught.value.op is not None
    tensor = torch.ones(2)
    dist.all_reduce(tensor)
    same(tensor, torch.full((2,), float(world)))


def tensors_elsewhere() -> None:
    """Tensors that the backend does not serve are refused, as input and as output of every call."""
    _, world = me_and_world()
    group = default_group()
    backend: Any = group._get_backend(torch.device("cpu"))
    ours, theirs = torch.ones(world), torch.ones(world, device="meta")
    several, one_of_several = [ours] * world, [ours] * (world - 1) + [theirs]
    calls: tuple[Callable[[], object], ...] = (
        lambda: backend.allreduce([theirs]),
        lambda: backend.allreduce_coalesced([ours, theirs]),
        lambda: backend.broadcast([theirs]),
        lambda: backend.allgather([several], [theirs]),
        lambda: backend.allgather([one_of_several], [ours]),
        lambda: backend.allgather_coalesced([[theirs]] * world, [ours]),
        lambda: backend._allgather_base(torch.ones(world * world), theirs),
        lambda: backend._allgather_base(torch.ones(world * world, device="meta"), ours),
        lambda: backend.reduce_scatter([ours], [one_of_several]),
        lambda: backend._reduce_scatter_base(theirs[:1], ours),
        lambda: backend.alltoall(several, one_of_several),
        lambda: backend.alltoall_base(ours, theirs, [], []),
        lambda: backend.send([theirs], 1, 0),
        lambda: backend.recv([theirs], 1, 0),
        lambda: backend.recv_anysource([theirs], 0),
    )
    for call in calls:
        with pytest.raises(fastgpu_comm.InvalidArgumentError, match="is on meta") as caught:
            call()
        assert "move it with .cpu()" in str(caught.value), "it does not say what to do"
    dist.all_reduce(ours)
    same(ours, torch.full((world,), float(world)))


def options_are_read() -> None:
    """The fields set win over the environment; bad ones say what is allowed."""
    _, world = me_and_world()
    options = fastgpu_comm.Options(
        algorithm="ring", lanes=1, port_range=(1024, 65535), timeout=timedelta(seconds=9)
    )
    assert (options.algorithm, options.lanes, options.port_range) == ("ring", "1", "1024-65535")
    assert options.transport is None
    group = dist.new_group(list(range(world)), pg_options=options)
    backend = group._get_backend(torch.device("cpu"))
    assert backend.options.algorithm == "ring"
    assert backend.options._timeout == timedelta(seconds=9)
    tensor = torch.ones(10)
    dist.all_reduce(tensor, group=group)
    same(tensor, torch.full((10,), float(world)))
    with pytest.raises(ValueError, match="auto, direct, ring"):
        fastgpu_comm.Options(algorithm="circle")
    with pytest.raises(ValueError, match="there is no option 'speed'"):
        fastgpu_comm.Options(speed="high")
    with pytest.raises(ValueError, match="1 to 16"):
        options.lanes = "17"
