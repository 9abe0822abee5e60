"""Checks of what goes wrong: what each rank must be told. Run by test_failures.py."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.group_checks import default_group

import fastgpu_comm

Call = Callable[[], object]


def mismatch(kind: str) -> None:
    """Rank 0 calls one thing, the others another; every rank hears of both."""
    rank, _ = me_and_world()
    ones = torch.ones(64)
    calls: dict[str, tuple[Call, Call, str, str]] = {
        "size": (
            lambda: dist.all_reduce(torch.ones(64)),
            lambda: dist.all_reduce(torch.ones(65)),
            "count=64",
            "count=65",
        ),
        "dtype": (
            lambda: dist.all_reduce(torch.ones(64)),
            lambda: dist.all_reduce(torch.ones(64, dtype=torch.int32)),
            "float32",
            "int32",
        ),
        "reduce op": (
            lambda: dist.all_reduce(ones, dist.ReduceOp.SUM),
            lambda: dist.all_reduce(ones, dist.ReduceOp.MAX),
            "op=SUM",
            "op=MAX",
        ),
        "root": (
            lambda: dist.broadcast(ones, 0),
            lambda: dist.broadcast(ones, 1),
            "root=0",
            "root=1",
        ),
        "collective": (
            lambda: dist.all_reduce(ones),
            lambda: dist.broadcast(ones, 0),
            "all_reduce",
            "broadcast",
        ),
    }
    mine, others, word, other_word = calls[kind]

    def call_and_meet() -> None:
        (mine if rank == 0 else others)()
        dist.barrier()  # a broadcast's root may be done before it hears

    with pytest.raises(fastgpu_comm.CollectiveMismatchError) as caught:
        call_and_meet()
    assert word in str(caught.value), caught.value
    assert other_word in str(caught.value), caught.value
    assert caught.value.rank == rank
    assert caught.value.peer not in (None, rank)


def sparse_mismatch() -> None:
    """Sparse tensors of different shapes."""
    rank, _ = me_and_world()
    tensor = torch.ones(3 + rank % 2, 2).to_sparse()
    with pytest.raises(fastgpu_comm.CollectiveMismatchError, match=r"size \(3, 2\)"):
        dist.all_reduce(tensor)


def collective_timeout() -> None:
    """Rank 1 does not come; the others are told so in time, by wait and by its future."""
    rank, world = me_and_world()
    group = dist.new_group(list(range(world)), timeout=timedelta(seconds=1))
    if rank == 1:
        time.sleep(2.5)
        return
    start = time.monotonic()
    work = dist.all_reduce(torch.ones(10), group=group, async_op=True)
    assert work is not None
    with pytest.raises(fastgpu_comm.CollectiveTimeoutError, match="timed out") as caught:
        work.wait()
    assert isinstance(caught.value, TimeoutError)
    assert 0.5 < time.monotonic() - start < 2.4
    assert caught.value.op == "all_reduce"
    assert caught.value.sequence is not None
    assert caught.value.peer not in (None, rank)
    assert re.search(r"look at rank \d+ \(host .+, pid \d+\)", str(caught.value)), caught.value
    with pytest.raises(fastgpu_comm.CommError):
        dist.all_reduce(torch.ones(10), group=group)


def wait_with_timeout() -> None:
    """A wait's own time-out leaves the operation pending."""
    rank, _ = me_and_world()
    result = torch.zeros(3)
    if rank == 0:
        work = dist.irecv(result, 1)
        assert work is not None
        with pytest.raises(fastgpu_comm.CollectiveTimeoutError):
            work.wait(timedelta(milliseconds=50))
        assert not work.is_completed()
        dist.barrier()
        work.wait()
        assert result.tolist() == [1.0, 1.0, 1.0]
    else:
        dist.barrier()
        if rank == 1:
            dist.send(torch.ones(3), 0)


def set_timeout() -> None:
    """ProcessGroup.set_timeout holds from the next operation on."""
    rank, world = me_and_world()
    group = dist.new_group(list(range(world)))
    group.set_timeout(timedelta(milliseconds=300))
    if rank == 0:
        with pytest.raises(fastgpu_comm.CollectiveTimeoutError):
            dist.all_reduce(torch.ones(10), group=group)
    else:
        time.sleep(1)


def peer_killed(with_futures: bool, with_child: bool = False) -> None:
    """The last rank is killed, its child if any not; what the others have pending names it."""
    rank, world = me_and_world()
    dist.all_reduce(torch.ones(4))
    if rank == world - 1:
        if with_child and os.fork() == 0:
            time.sleep(3)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    start = time.monotonic()
    works = []
    # Once the loss is known, which may be between two calls, the calls raise it themselves.
    with contextlib.suppress(fastgpu_comm.PeerLostError):
        for _ in range(3):
            works.append(dist.all_reduce(torch.ones(100_000), async_op=True))
    for work in works:
        assert work is not None
        wait = work.get_future().wait if with_futures else work.wait
        with pytest.raises(fastgpu_comm.PeerLostError) as caught:
            wait()
        assert caught.value.peer == world - 1, caught.value
        assert f"rank {world - 1}" in str(caught.value)
    assert time.monotonic() - start < (2 if with_child else 10)
    with pytest.raises(fastgpu_comm.PeerLostError):
        dist.barrier()


def message_to_killed_peer(kind: str) -> None:
    """A message that is pending when a rank dies names it, whichever way it waits."""
    rank, world = me_and_world()
    last = world - 1
    dist.all_reduce(torch.ones(4))
    if rank == last:
        time.sleep(0.5)  # so that the others are blocked by then
        os.kill(os.getpid(), signal.SIGKILL)
    start = time.monotonic()
    calls: dict[str, Call] = {
        "large send": lambda: dist.send(torch.ones(1 << 18), last),
        "receive": lambda: dist.recv(torch.ones(4), last),
        "receive from any": lambda: dist.recv(torch.ones(4)),
        "collective": lambda: dist.all_reduce(torch.ones(4)),
    }
    with pytest.raises(fastgpu_comm.PeerLostError) as caught:
        # Of two survivors one waits for the other, who must not be blamed.
        calls[kind if rank == 0 else "collective"]()
    assert caught.value.peer == last, caught.value
    assert time.monotonic() - start < 5


def any_source_outlives_a_leaver() -> None:
    """A rank that leaves in order does not end a receive that another can still serve."""
    rank, world = me_and_world()
    group = dist.new_group(list(range(world)))
    dist.all_reduce(torch.ones(1), group=group)
    if rank == 0:
        result = torch.zeros(2)
        assert dist.recv(result, group=group) == 1
        assert result.tolist() == [7, 7]
        with pytest.raises(fastgpu_comm.PeerLostError):  # nobody is left
            dist.recv(result, group=group)
    elif rank == 1:
        time.sleep(0.5)  # rank 2 has left by then
        dist.send(torch.full((2,), 7.0), 0, group=group)
        dist.destroy_process_group(group)
    else:
        dist.destroy_process_group(group)


def own_part_of_another_size() -> None:
    """What a rank sends itself must fit what it gets from itself."""
    rank, world = me_and_world()
    splits = [1] * world
    other = [2 if peer == rank else 1 for peer in range(world)]
    received = torch.full((world + 1,), -1.0)
    with pytest.raises(fastgpu_comm.InvalidArgumentError, match="sends itself 1 elements"):
        dist.all_to_all_single(received, torch.ones(world), other, splits)
    assert received.tolist() == [-1.0] * (world + 1)
    with pytest.raises(fastgpu_comm.InvalidArgumentError, match="sends itself 2 elements"):
        dist.all_to_all_single(torch.ones(world), torch.ones(world + 1), splits, other)
    dist.barrier()


def forked_process() -> None:
    """A forked process cannot use the group, nor harm it, nor make one; its parent goes on."""
    rank, world = me_and_world()
    ones = torch.ones(3)
    dist.all_reduce(ones)
    if rank == 0:
        child = os.fork()
        if child == 0:
            refused = 0
            for call in (lambda: dist.all_reduce(ones), lambda: dist.send(ones, 1)):
                try:
                    call()
                except fastgpu_comm.InvalidArgumentError as error:
                    refused += "forked" in str(error)
            dist.destroy_process_group()
            try:
                dist.init_process_group("fastgpu", store=dist.HashStore(), rank=0, world_size=1)
            except fastgpu_comm.InvalidArgumentError as error:
                refused += "forked" in str(error)
            os._exit(0 if refused == 3 else 1)
        _, status = os.waitpid(child, 0)
        assert status == 0
    dist.barrier()
    ones = torch.ones(1 << 18)
    dist.all_reduce(ones)
    assert ones[-1] == world


def different_options() -> None:
    """Ranks whose schedules would differ hear so when the group is made, all of them."""
    rank, world = me_and_world()
    start = time.monotonic()
    with pytest.raises(fastgpu_comm.CollectiveMismatchError, match=r"lanes=1 .*lanes=4"):
        dist.new_group(
            list(range(world)),
            backend="fastgpu",
            pg_options=fastgpu_comm.Options(lanes=4 if rank == 1 else 1),
        )
    assert time.monotonic() - start < 5
    dist.barrier()


def aborted() -> None:
    """abort() from another thread ends a blocked collective, at once, at the peers too."""
    rank, world = me_and_world()
    group = dist.new_group(list(range(world)))
    dist.all_reduce(torch.ones(1), group=group)
    if rank == 0:
        timer = threading.Timer(0.3, group.abort)
        timer.start()
        with pytest.raises(fastgpu_comm.AbortedError):
            group.recv([torch.ones(1)], 1, 0).wait()
        timer.join()
    else:
        start = time.monotonic()
        with pytest.raises(fastgpu_comm.CommError):
            dist.all_reduce(torch.ones(1), group=group)
        assert time.monotonic() - start < 10


def destroyed_while_pending() -> None:
    """destroy_process_group fails what is pending, and a new group works."""
    rank, world = me_and_world()
    group = dist.new_group(list(range(world)))
    work = group.recv([torch.ones(1)], (rank + 1) % world, 0)
    dist.destroy_process_group(group)
    with pytest.raises(fastgpu_comm.CommError):
        work.wait()
    again = dist.new_group(list(range(world)))
    dist.all_reduce(torch.ones(1), group=again)


def backward_of_ddp_fails() -> None:
    """A lost rank surfaces in DDP's backward as what it is."""
    rank, world = me_and_world()
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(200, 200))
    model(torch.ones(1, 200)).sum().backward()
    if rank == world - 1:
        os.kill(os.getpid(), signal.SIGKILL)

    def train_on() -> None:
        for _ in range(3):
            model(torch.ones(1, 200)).sum().backward()

    with pytest.raises(fastgpu_comm.PeerLostError):
        train_on()


def functional_collective_fails() -> None:
    """A mismatch surfaces in functional collectives as what it is."""
    from torch.distributed import _functional_collectives as functional

    rank, _ = me_and_world()
    with pytest.raises(fastgpu_comm.CollectiveMismatchError):
        functional.all_reduce(torch.ones(3 + rank), "sum", default_group()).sum()


def monitored_barrier(missing: tuple[int, ...]) -> None:
    """Every rank that came names every one that did not."""
    rank, world = me_and_world()
    group = dist.new_group(list(range(world)))
    fastgpu_comm.monitored_barrier(group)
    if rank in missing:
        time.sleep(2.5)
        return
    wording = "Ranks 1, 2 failed" if len(missing) > 1 else f"Rank {missing[0]} failed"
    if 0 in missing:
        wording = "Rank 0 timed out in monitoredBarrier"
    with pytest.raises(fastgpu_comm.CollectiveTimeoutError, match=wording) as caught:
        fastgpu_comm.monitored_barrier(group, timedelta(milliseconds=700))
    assert caught.value.op == "monitored_barrier"


def bad_environment() -> None:
    """A variable that is wrong or unknown says what is allowed, when a group is made."""
    rank, world = me_and_world()
    for name, value, wording in (
        ("FASTGPU_ALGORITHM", "rnig", "auto, direct, ring"),
        ("FASTGPU_ALGORYTHM", "ring", "FASTGPU_ALGORITHM"),
        ("FASTGPU_LANES", "many", "1 to 16"),
        ("FASTGPU_DETERMINISTIC", "yes", "0, 1"),
        ("FASTGPU_SINGLE_COPY", "sometimes", "auto, never, always"),
        ("FASTGPU_LOG", "loud", "error, warn, info and debug"),
        ("FASTGPU_SIMD", "sse9", "avx512fp16, avx512, avx2 and base"),
    ):
        os.environ[name] = value
        try:
            with pytest.raises(fastgpu_comm.InvalidArgumentError, match=wording) as caught:
                dist.new_group(list(range(world)))
            assert name in str(caught.value)
            assert isinstance(caught.value, ValueError)
        finally:
            del os.environ[name]
    assert rank < world


def uneven_parts_of_another_size() -> None:
    """A rank's own part that does not fit is refused before any other rank's has begun."""
    rank, world = me_and_world()
    parts, other_size = [torch.zeros(p + 1) for p in range(world)], torch.zeros(rank + 2)
    with pytest.raises(fastgpu_comm.InvalidArgumentError, match=f"{rank + 1} elements"):
        dist.all_gather(parts, other_size)
    with pytest.raises(fastgpu_comm.InvalidArgumentError, match=f"input {rank + 1}"):
        dist.reduce_scatter(other_size, parts)
    rows = torch.ones(world)
    with pytest.raises(fastgpu_comm.InvalidArgumentError, match="split -1 is negative"):
        dist.all_to_all_single(rows.clone(), rows, None, [-1, *[1] * (world - 1)])
    ones = torch.ones(3)
    dist.all_reduce(ones)
    assert ones.tolist() == [world] * 3
