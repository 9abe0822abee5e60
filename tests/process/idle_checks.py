"""Checks that ranks which have nothing to do leave their cores alone. Run by test_idle.py.

Processor time is that of all threads of the process, so it tells of a thread that polls unseen.
"""

from __future__ import annotations

import time

import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.events import Events

# An idle rank takes well under 1% of a core, and 100% if one of its threads spins.
IDLE_SECONDS = 1.0
MOST = 0.04
SMALL, LARGE = 4, 1 << 21


def use_group() -> None:
    """Makes calls of every kind, so that all channels are open and all threads have run."""
    rank, world = me_and_world()
    for count in (SMALL, LARGE):
        work = dist.all_reduce(torch.ones(count), async_op=True)
        assert work is not None
        work.get_future().wait()
        dist.all_reduce(torch.ones(count))
        sent = dist.isend(torch.ones(count), (rank + 1) % world)
        dist.recv(torch.ones(count), (rank - 1) % world)
        assert sent is not None
        sent.wait()


def assert_idle(began: float, ended: float, seconds: float) -> None:
    """Compares two readings of the process's time with the time that passed between them."""
    share = (ended - began) / seconds
    print(f"{share:.2%} of a core")
    assert share < MOST, f"an idle rank took {share:.0%} of a core for {seconds:.1f} s"


def stay_idle() -> None:
    """Does nothing for a while."""
    wall, began = time.monotonic(), time.process_time()
    time.sleep(IDLE_SECONDS)
    assert_idle(began, time.process_time(), time.monotonic() - wall)


def after_use() -> None:
    """Nothing is pending."""
    use_group()
    stay_idle()


def with_pending_calls() -> None:
    """Receives (one from any rank) and collectives are pending, because rank 1 is late."""
    rank, world = me_and_world()
    events = Events()
    use_group()
    tensors = [torch.ones(count) for count in (SMALL, LARGE)]
    if rank == 1:
        events.wait(*(f"idle {peer}" for peer in range(world) if peer != 1))
        works = [dist.isend(torch.ones(SMALL), 0, tag=9) for _ in range(2)]
    else:
        sources = (1, None) if rank == 0 else ()
        works = [dist.irecv(torch.ones(SMALL), source, tag=9) for source in sources]
    works += [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
    if rank != 1:
        stay_idle()
        events.set(f"idle {rank}")
    for work in works:
        assert work is not None
        work.wait()
    assert all(tensor[-1] == world for tensor in tensors)


def while_waiting() -> None:
    """A thread waits for a message, then for a collective, while rank 1 is late."""
    rank, world = me_and_world()
    events = Events()
    use_group()
    for wait in ("message", "collective"):
        if rank == 1:
            events.wait(*(f"{wait} {peer}" for peer in range(world) if peer != 1))
            time.sleep(IDLE_SECONDS)
        else:
            events.set(f"{wait} {rank}")
        wall, began = time.monotonic(), time.process_time()
        received = torch.empty(SMALL)
        if wait == "collective":
            dist.all_reduce(torch.ones(SMALL))
        elif rank == 1:
            for peer in range(world):
                if peer != 1:
                    dist.send(received, peer, tag=9)
        else:
            dist.recv(received, 1, tag=9)
        if rank != 1:
            assert_idle(began, time.process_time(), time.monotonic() - wall)
