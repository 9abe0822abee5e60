"""Checks of ranks that run out of a resource. Run by test_shortages.py."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import resource
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.events import Events

import fastgpu_comm

SHORT = 1  # the rank that runs out


@contextlib.contextmanager
def soft_limit(kind: int, limit: int) -> Iterator[None]:
    """Lowers a soft limit of this process for a while."""
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def without_descriptors(spare: int) -> None:
    """Rank 1 has a few descriptors left when its first collective opens connections.

    Args:
        spare: How many descriptors rank 1 may still open.
    """

    def limit() -> int:
        taken = {int(name) for name in os.listdir("/proc/self/fd")}
        free = (number for number in itertools.count() if number not in taken)
        return next(itertools.islice(free, spare, None))

    check_shortage(resource.RLIMIT_NOFILE, limit, "ran out of file descriptors")


def descriptors_of_groups(per_peer: int) -> None:
    """Each additional group opens at most `per_peer` descriptors for a peer."""
    _, world = me_and_world()

    def use(group: dist.ProcessGroup | None) -> None:
        small, large = torch.ones(1000), torch.ones(1 << 20)
        for each in (small, large):
            dist.all_reduce(each, group=group)
            dist.all_to_all_single(
                torch.empty_like(each[: 20 * world]), each[: 20 * world], group=group
            )
            dist.broadcast(each, 0, group=group)

    use(None)
    before = len(os.listdir("/proc/self/fd"))
    groups = [dist.new_group() for _ in range(5)]
    for group in groups:
        use(group)
    opened = len(os.listdir("/proc/self/fd")) - before
    assert opened <= len(groups) * per_peer * (world - 1), opened


def without_file_sizes() -> None:
    """Rank 1 may not make files as large as a ring."""
    check_shortage(resource.RLIMIT_FSIZE, lambda: 8192, "reached the limit of file sizes")


def reduce_often() -> None:
    """Reduces until a failure of another rank has arrived; a rank may finish without its links."""
    for _ in range(100):
        dist.all_reduce(torch.ones(100_000))


def check_shortage(kind: int, limit: Callable[[], int], words: str) -> None:
    """Every rank must hear that rank 1 ran out, and of what.

    Args:
        kind: The limit, as `resource.RLIMIT_NOFILE`.
        limit: Returns what it is lowered to once every rank is ready: until then descriptors of the
            rendezvous may still be open, which would leave more to spare.
        words: Of the error.
    """
    rank, world = me_and_world()
    events = Events()
    ready = [f"ready {peer}" for peer in range(world)]
    error = fastgpu_comm.OutOfResourcesError  # now: the name imports modules, and opens their files
    with contextlib.ExitStack() as limits:
        events.set(f"ready {rank}")
        events.wait(*ready)
        if rank == SHORT:
            lowered = limit()
            limits.enter_context(soft_limit(kind, lowered))
            events.set("short")
        else:  # else this rank could connect to the short one while that has descriptors left
            events.wait("short")
        with pytest.raises(error) as caught:
            reduce_often()
        limits.close()
    text = str(caught.value)
    assert words in text, text
    assert "ulimit" in text, text
    assert re.search(rf"may have {lowered if rank == SHORT else '[0-9]+'} ", text), text
    assert f"rank {SHORT} " in text, text
    assert caught.value.peer == SHORT
    assert caught.value.rank == rank
