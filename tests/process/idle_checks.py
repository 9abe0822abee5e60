"""Checks that ranks which have nothing to do leave their cores alone. Run by test_idle.py.

All threads of the process are measured, so a thread that polls unseen counts. On a busy machine a
thread that polls gets little time, but its core is taken from it again and again.
"""

from __future__ import annotations

import resource
import time

import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.events import Events

IDLE_SECONDS = 1.0
# Seen: 0.2% of a core, and 15 switches a second; 150 if a rank yields to others before it sleeps.
# A thread that spins takes 100%, and one that sleeps for 100 us at a time switches 10,000 times.
MOST_OF_A_CORE = 0.04
MOST_SWITCHES_PER_SECOND = 1000
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


class Usage:
    """What this process has used when the object is made."""

    def __init__(self) -> None:
        """Reads the clocks and counters."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        self.wall = time.monotonic()
        self.processor = used.ru_utime + used.ru_stime
        self.switches = used.ru_nvcsw + used.ru_nivcsw

    def assert_idle(self) -> None:
        """Checks that the process has been idle since then."""
        now = Usage()
        seconds = now.wall - self.wall
        share = (now.processor - self.processor) / seconds
        rate = (now.switches - self.switches) / seconds
        used = f"{share:.2%} of a core and {rate:.0f} switches a second, for {seconds:.1f} s"
        print(used)
        assert share < MOST_OF_A_CORE, f"an idle rank took {used}"
        assert rate < MOST_SWITCHES_PER_SECOND, f"an idle rank took {used}"


def stay_idle() -> None:
    """Does nothing for a while."""
    before = Usage()
    time.sleep(IDLE_SECONDS)
    before.assert_idle()


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
        before = Usage()
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
            before.assert_idle()
