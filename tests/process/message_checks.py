"""Checks of messages whose ranks part ways, wait long or disagree. Run by test_messages.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.events import Events

import fastgpu_comm

TIMEOUT = timedelta(milliseconds=300)


def new_group(timeout: timedelta | None = None) -> dist.ProcessGroup:
    """Makes a group of all ranks. It gets the time-out once all ranks have met."""
    group = dist.new_group(list(range(dist.get_world_size())))
    assert isinstance(group, dist.ProcessGroup)
    if timeout is not None:
        group.set_timeout(timeout)
    return group


def sender_leaves_first() -> None:
    """Everything that a rank had sent when it left in order can be received afterwards."""
    rank, _ = me_and_world()
    events = Events()
    group = new_group()
    tensors = [torch.full((4096,), float(i)) for i in range(20)]
    if rank == 0:
        works = [dist.isend(tensor, 1, group=group) for tensor in tensors]
        dist.recv(torch.empty(1), 1, group=group)
        for work in works:
            assert work is not None
            work.wait()
        dist.destroy_process_group(group)
        events.set("left")
    elif rank == 1:
        dist.send(torch.ones(1), 0, group=group)  # so that there is a channel to rank 0
        dist.recv(torch.empty(1), 2, group=group)  # takes what rank 0 sends, too
        for expected in tensors:
            result = torch.empty(4096)
            dist.recv(result, 0, group=group)
            assert result.equal(expected)
        dist.send(torch.ones(1), 2, group=group)  # the group goes on
        events.wait("received")
        with pytest.raises(fastgpu_comm.PeerLostError, match="has left the group"):
            dist.recv(torch.empty(1), 0, group=group)
    elif rank == 2:
        events.wait("left")
        dist.send(torch.ones(1), 1, group=group)
        dist.recv(torch.empty(1), 1, group=group)
        events.set("received")


def receiver_leaves_first() -> None:
    """A rank that leaves with a receive that nobody matched does not fail the others' barrier."""
    rank, _ = me_and_world()
    events = Events()
    for turn in range(20):
        group = dist.new_group()
        if rank == 0:
            dist.irecv(torch.ones(4), 1, group=group)
        dist.barrier(group=group)
        if rank > 0:  # else the receive would fail first, and with it the group
            events.wait(f"left {turn}")
        dist.destroy_process_group(group)
        if rank == 0:
            events.set(f"left {turn}")
    dist.barrier()


def unmatched_messages() -> None:
    """A message that is asked for arrives after thousands that nobody asks for yet."""
    rank, _ = me_and_world()
    for count, size in ((3000, 1), (100, 4096)):
        if rank == 0:
            works = [dist.isend(torch.full((size,), float(i)), 1) for i in range(count)]
            dist.send(torch.full((3,), 7.0), 1, tag=5)
            for work in works:
                assert work is not None
                work.wait()
        elif rank == 1:
            wanted = torch.empty(3)
            dist.recv(wanted, 0, tag=5)
            assert wanted.tolist() == [7.0, 7.0, 7.0]
            for i in range(count):
                result = torch.empty(size)
                dist.recv(result, 0)
                assert result[-1] == i


def idle_messages() -> None:
    """The time-out of a message runs only while somebody waits for it."""
    rank, _ = me_and_world()
    events = Events()
    group = new_group(TIMEOUT if rank == 0 else None)
    large = torch.ones(100_000)
    if rank == 0:
        posted = [dist.irecv(torch.empty(4), 1, group=group), dist.isend(large, 1, group=group)]
        time.sleep(3 * TIMEOUT.total_seconds())
        events.set("waits")
        events.wait("sent")
        for work in posted:
            assert work is not None
            work.wait(timedelta(seconds=60))
    elif rank == 1:
        events.wait("waits")
        dist.send(torch.ones(4), 0, group=group)
        events.set("sent")
        dist.recv(large, 0, group=group)


def late_message(by_future: bool) -> None:
    """The error says what was waited for, for how long, and for which rank."""
    rank, _ = me_and_world()
    events = Events()
    group = new_group(TIMEOUT)
    if rank != 0:
        events.wait("failed")
        return
    work = dist.irecv(torch.empty(4), 1, group=group, tag=3)
    assert work is not None
    start = time.monotonic()
    with pytest.raises(fastgpu_comm.CollectiveTimeoutError) as caught:
        work.get_future().wait() if by_future else work.wait()
    assert time.monotonic() - start >= TIMEOUT.total_seconds()
    events.set("failed")
    text = str(caught.value)
    assert text.startswith("Timed out after 300 ms: recv of 4 elements of float32 with tag 3"), text
    assert " waited for rank 1 (host " in text, text
    assert text.count("rank 1") == 1, text
    assert (caught.value.op, caught.value.peer, caught.value.sequence) == ("recv", 1, None)


Elements = tuple[int, torch.dtype]


def describe(elements: Elements) -> str:
    """Returns the elements as an error describes them."""
    return f"{elements[0]} elements of {elements[1]}".replace("torch.", "")


def other_elements(sent: Elements, wanted: Elements) -> None:
    """Both ranks hear that a message and its receive name different elements."""
    rank, _ = me_and_world()
    group = new_group()
    if rank > 1:
        return

    def call() -> None:
        if rank == 0:
            dist.send(torch.ones(sent[0], dtype=sent[1]), 1, group=group)
            dist.recv(torch.empty(1), 1, group=group)
        else:
            dist.recv(torch.ones(wanted[0], dtype=wanted[1]), 0, group=group)

    with pytest.raises(fastgpu_comm.CollectiveMismatchError) as caught:
        call()
    text = str(caught.value)
    assert "rank 0 (host " in text, text
    assert f"sent {describe(sent)}" in text, text
    assert f"receive takes {describe(wanted)}" in text, text


def parts_of_a_call(call: str) -> None:
    """An error names the call that the user made, not the parts that it is made of."""
    rank, world = me_and_world()
    events = Events()
    group = new_group(TIMEOUT)
    if rank == 1:
        events.wait(*(f"failed {peer}" for peer in range(world) if peer != 1))
        return
    parts = [torch.ones(peer + 1) for peer in range(world)]
    mine = torch.ones(rank + 1)
    calls: dict[str, Callable[[], object]] = {
        "all_gather": lambda: dist.all_gather(parts, mine, group=group),
        "reduce_scatter": lambda: dist.reduce_scatter(mine, parts, group=group),
        "all_reduce": lambda: dist.all_reduce(torch.ones(3, 2).to_sparse(), group=group),
    }
    with pytest.raises(fastgpu_comm.CollectiveTimeoutError, match="Timed out after") as caught:
        calls[call]()
    events.set(f"failed {rank}")
    assert caught.value.op == call, caught.value
    assert f" of {call} waited for " in str(caught.value), caught.value
