"""Checks of failures: the error that each rank must raise. Run by test_failures.py."""

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
from tests.process.events import Events, survivors
from tests.process.group_checks import default_group

import fastgpu_comm

Call = Callable[[], object]

# How much later than due a time-out may be noticed on a busy machine.
MARGIN_S = 20.0


def mismatch(kind: str) -> None:
    """Rank 0 makes another call than the others; the error on every rank names both calls."""
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
    """Rank 1 does not come before the others have failed, which they must do in time."""
    rank, world = me_and_world()
    events = Events()
    group = dist.new_group(list(range(world)), timeout=timedelta(seconds=1))
    others = survivors(missing=1)
    if rank == 1:
        events.wait(*(f"failed {peer}" for peer in others))
        return
    start = time.monotonic()
    events.set(f"started {rank}", start)
    work = dist.all_reduce(torch.ones(10), group=group, async_op=True)
    assert work is not None
    with pytest.raises(fastgpu_comm.CollectiveTimeoutError, match="Timed out after 1000") as caught:
        work.wait()
    end = time.monotonic()
    events.set(f"failed {rank}")
    assert isinstance(caught.value, TimeoutError)
    # The first rank whose time is up tells the others.
    assert end - min(float(events.get(f"started {peer}")) for peer in others) >= 1.0
    assert end - start < 1.0 + MARGIN_S
    assert caught.value.op == "all_reduce"
    assert caught.value.sequence is not None
    assert caught.value.peer not in (None, rank)
    assert re.search(r"waited for rank \d+ \(host .+, pid \d+\)", str(caught.value)), caught.value
    with pytest.raises(fastgpu_comm.CommError):
        dist.all_reduce(torch.ones(10), group=group)


def wait_with_timeout() -> None:
    """A wait's own time-out leaves the operation pending."""
    rank, _ = me_and_world()
    result = torch.zeros(3)
    if rank == 0:
        work = dist.irecv(result, 1)
        assert work is not None
        with pytest.raises(fastgpu_comm.CollectiveTimeoutError, match="after 50 ms"):
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
    events = Events()
    group = dist.new_group(list(range(world)))
    group.set_timeout(timedelta(milliseconds=300))
    if rank == 0:
        with pytest.raises(fastgpu_comm.CollectiveTimeoutError):
            dist.all_reduce(torch.ones(10), group=group)
        events.set("failed")
    else:
        events.wait("failed")


def peer_killed(with_futures: bool, with_child: bool = False) -> None:
    """The last rank is killed, a child of it lives on. Pending operations name the rank."""
    rank, world = me_and_world()
    events = Events()
    dist.all_reduce(torch.ones(4))
    if rank == world - 1:
        if with_child:
            child = os.fork()
            if child == 0:
                time.sleep(100)  # until a survivor kills it
                os._exit(0)
            events.set("child", child)
        os.kill(os.getpid(), signal.SIGKILL)
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
    with pytest.raises(fastgpu_comm.PeerLostError):
        dist.barrier()
    if with_child:
        child = int(events.get("child"))
        os.kill(child, 0)  # raises unless the child still lives
        events.set(f"seen {rank}")
        events.wait(*(f"seen {peer}" for peer in survivors(missing=world - 1)))
        if rank == 0:
            os.kill(child, signal.SIGKILL)


def message_to_killed_peer(kind: str) -> None:
    """Every kind of operation that is pending when a rank dies names that rank."""
    rank, world = me_and_world()
    last = world - 1
    events = Events()
    dist.all_reduce(torch.ones(4))
    if rank == last:
        events.wait(*(f"waits {peer}" for peer in survivors(missing=last)))
        os.kill(os.getpid(), signal.SIGKILL)
    calls: dict[str, Callable[[], dist.Work | None]] = {
        "large send": lambda: dist.isend(torch.ones(1 << 18), last),
        "receive": lambda: dist.irecv(torch.ones(4), last),
        "receive from any": lambda: dist.irecv(torch.ones(4)),
        "collective": lambda: dist.all_reduce(torch.ones(4), async_op=True),
    }
    # One survivor may also wait for the other, which must not be blamed.
    work = calls[kind if rank == 0 else "collective"]()
    assert work is not None
    events.set(f"waits {rank}")
    with pytest.raises(fastgpu_comm.PeerLostError) as caught:
        work.wait()
    assert caught.value.peer == last, caught.value


def any_source_outlives_a_leaver() -> None:
    """A rank that leaves in order does not end a receive that another can still serve."""
    rank, world = me_and_world()
    events = Events()
    group = dist.new_group(list(range(world)))
    dist.all_reduce(torch.ones(1), group=group)
    if rank == 0:
        result = torch.zeros(2)
        assert dist.recv(result, group=group) == 1
        assert result.tolist() == [7, 7]
        with pytest.raises(fastgpu_comm.PeerLostError):  # all other ranks have left
            dist.recv(result, group=group)
    elif rank == 1:
        events.wait("left")
        dist.send(torch.full((2,), 7.0), 0, group=group)
        dist.destroy_process_group(group)
    else:
        dist.destroy_process_group(group)
        events.set("left")


def own_part_of_another_size() -> None:
    """The part that a rank sends to itself must have the size that it receives from itself."""
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
    with pytest.raises(fastgpu_comm.CollectiveMismatchError, match=r"lanes=1 .*lanes=4"):
        dist.new_group(
            list(range(world)),
            backend="fastgpu",
            pg_options=fastgpu_comm.Options(lanes=4 if rank == 1 else 1),
        )
    dist.barrier()


def aborted() -> None:
    """abort() from another thread ends a pending operation, and those of the peers, at once."""
    rank, world = me_and_world()
    events = Events()
    group = dist.new_group(list(range(world)))
    dist.all_reduce(torch.ones(1), group=group)
    if rank == 0:
        work = group.recv([torch.ones(1)], 1, 0)
        events.wait(*(f"connected {peer}" for peer in survivors(missing=0)))
        thread = threading.Thread(target=group.abort)
        thread.start()
        with pytest.raises(fastgpu_comm.AbortedError):
            work.wait()
        thread.join()
    else:
        events.set(f"connected {rank}")
        with pytest.raises(fastgpu_comm.CommError) as caught:
            dist.all_reduce(torch.ones(1), group=group)
        assert not isinstance(caught.value, fastgpu_comm.CollectiveTimeoutError)


def destroyed_while_pending() -> None:
    """destroy_process_group fails what is pending, and a new group works."""
    rank, world = me_and_world()
    group = dist.new_group(list(range(world)))
    work = group.recv([torch.ones(1)], (rank + 1) % world, 0)
    dist.barrier()  # the first rank that destroys the group fails it for the others, too
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
    """Every rank that came names every rank that did not."""
    rank, world = me_and_world()
    events = Events()
    group = dist.new_group(list(range(world)))
    fastgpu_comm.monitored_barrier(group, wait_all_ranks=True)
    if rank in missing:
        events.wait(*(f"failed {peer}" for peer in range(world) if peer not in missing))
        return
    wording = "Ranks 1, 2 failed" if len(missing) > 1 else f"Rank {missing[0]} failed"
    if 0 in missing:
        wording = "Rank 0 timed out in monitoredBarrier"
    with pytest.raises(fastgpu_comm.CollectiveTimeoutError, match=wording) as caught:
        fastgpu_comm.monitored_barrier(group, timedelta(seconds=2))
    events.set(f"failed {rank}")
    assert caught.value.op == "monitored_barrier"


def bad_environment() -> None:
    """A variable that is wrong or unknown says what is allowed, when a group is made."""
    _, world = me_and_world()
    for name, value, wording in (
        ("FASTGPU_ALGORITHM", "rnig", "auto, direct, ring"),
        ("FASTGPU_ALGORYTHM", "ring", "FASTGPU_ALGORITHM"),
        ("FASTGPU_LANES", "many", "1 to 16"),
        ("FASTGPU_DETERMINISTIC", "yes", "0, 1"),
        ("FASTGPU_SINGLE_COPY", "sometimes", "auto, never, always"),
        ("FASTGPU_LOG", "loud", "error, warn, info, debug"),
        ("FASTGPU_SIMD", "sse9", "avx512fp16, avx512, avx2, base"),
        ("FASTGPU_ALGORITHM", "\udcff", "auto, direct, ring"),  # the byte 0xff, which is not UTF-8
    ):
        os.environ[name] = value
        try:
            with pytest.raises(fastgpu_comm.InvalidArgumentError, match=wording) as caught:
                dist.new_group(list(range(world)))
            assert name in str(caught.value)
            assert isinstance(caught.value, ValueError)
        finally:
            del os.environ[name]


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
