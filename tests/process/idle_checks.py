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

IDLE_SECONDS = 0.4
TRIES = 3  # the idlest one counts: on a busy machine one may include work that came late
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

    def since(self) -> tuple[float, float]:
        """Returns the share of a core, and the context switches by second, since then."""
        now = Usage()
        seconds = now.wall - self.wall
        return (now.processor - self.processor) / seconds, (now.switches - self.switches) / seconds


def assert_idle(tries: list[tuple[float, float]]) -> None:
    """Checks that the process was idle in one of the tries, each a share and a rate of switches."""
    used = ", ".join(f"{share:.2%} of a core and {rate:.0f} switches/s" for share, rate in tries)
    print(used)
    idle = (share < MOST_OF_A_CORE and rate < MOST_SWITCHES_PER_SECOND for share, rate in tries)
    assert any(idle), f"an idle rank took {used}"


def stay_idle() -> None:
    """Does nothing for a while."""
    tries = []
    for _ in range(TRIES):
        before = Usage()
        time.sleep(IDLE_SECONDS)
        tries.append(before.since())
    assert_idle(tries)


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
    use_group()
    for wait in (wait_for_message, wait_for_collective):
        assert_idle([wait(number) for number in range(TRIES)])


def be_late(name: str) -> Usage:
    """Rank 1 stays behind the others for a while; returns what was used before they wait."""
    rank, world = me_and_world()
    events = Events()
    if rank == 1:
        events.wait(*(f"{name} {peer}" for peer in range(world) if peer != 1))
        time.sleep(IDLE_SECONDS)
    else:
        events.set(f"{name} {rank}")
    return Usage()


def wait_for_message(number: int) -> tuple[float, float]:
    """Returns what a wait for rank 1 used; of rank 1, nothing."""
    rank, world = me_and_world()
    before = be_late(f"message {number}")
    tensor = torch.ones(SMALL)
    if rank != 1:
        dist.recv(tensor, 1, tag=9)
        return before.since()
    for peer in range(world):
        if peer != 1:
            dist.send(tensor, peer, tag=9)
    return 0.0, 0.0


def wait_for_collective(number: int) -> tuple[float, float]:
    """The same for a collective."""
    before = be_late(f"collective {number}")
    dist.all_reduce(torch.ones(SMALL))
    return before.since() if dist.get_rank() != 1 else (0.0, 0.0)
