"""Checks of many operations at once, in an order drawn from a seed. Run by test_stress.py."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.group_checks import default_group
from tests.process.reference import same, values

Pending = Callable[[], None]  # waits, and looks at the result


def _all_reduce(group: dist.ProcessGroup, seed: int, count: int) -> Pending:
    rank, world = me_and_world()
    tensor = values(seed + rank, torch.float32, count)
    work = dist.all_reduce(tensor, group=group, async_op=True)

    def check() -> None:
        assert work is not None
        work.wait()
        same(
            tensor, sum((values(seed + p, torch.float32, count) for p in range(world)), tensor * 0)
        )

    return check


def _all_gather(group: dist.ProcessGroup, seed: int, count: int) -> Pending:
    rank, world = me_and_world()
    parts = [torch.zeros(count, dtype=torch.int64) for _ in range(world)]
    work = dist.all_gather(parts, values(seed + rank, torch.int64, count), group, async_op=True)

    def check() -> None:
        assert work is not None
        work.wait()
        for peer, part in enumerate(parts):
            same(part, values(seed + peer, torch.int64, count))

    return check


def _broadcast(group: dist.ProcessGroup, seed: int, count: int) -> Pending:
    rank, world = me_and_world()
    root = seed % world
    tensor = values(seed + rank, torch.uint8, count)
    work = dist.broadcast(tensor, root, group, async_op=True)

    def check() -> None:
        assert work is not None
        work.wait()
        same(tensor, values(seed + root, torch.uint8, count))

    return check


def _messages(group: dist.ProcessGroup, seed: int, count: int) -> Pending:
    """Sends to a rank at some distance, and receives from the one as far before."""
    rank, world = me_and_world()
    distance = 1 + seed % (world - 1)
    before = (rank - distance) % world
    result = torch.zeros(count)
    sent = values(seed + rank, torch.float32, count)
    works = [
        dist.irecv(result, before, group, tag=seed),
        dist.isend(sent, (rank + distance) % world, group, tag=seed),
    ]

    def check() -> None:
        for work in works:
            assert work is not None
            work.wait()
        same(result, values(seed + before, torch.float32, count))

    return check


def _drive(group: dist.ProcessGroup, seed: int, operations: int) -> None:
    """Starts operations and waits for earlier ones, in an order that is every rank's own."""
    same_everywhere = random.Random(seed)
    own = random.Random(seed * 1000 + dist.get_rank())
    pending: list[Pending] = []
    for number in range(operations):
        start = same_everywhere.choice((_all_reduce, _all_gather, _broadcast, _messages))
        count = int(10 ** same_everywhere.uniform(0, 5.3))
        pending.append(start(group, 100 * (seed * operations + number), count))
        while pending and own.random() < 0.4:
            pending.pop(own.randrange(len(pending)))()
    for check in pending:
        check()


def groups_in_threads(seed: int, threads: int, operations: int) -> None:
    """A group for each thread; collectives and messages in flight in all of them at once."""
    groups = [dist.new_group() for _ in range(threads)]
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            _drive(groups[number], seed * threads + number, operations)
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    for group in groups:
        dist.destroy_process_group(group)
    assert errors == [], f"seed {seed}: {errors}"


def thousand_outstanding() -> None:
    """1,000 all-reduces started before the first is waited for, the last one first."""
    group = default_group()
    checks = [_all_reduce(group, 10 * number, 1 + 3 * number) for number in range(1000)]
    for check in reversed(checks):
        check()


def one_all_reduce() -> None:
    """One small all-reduce, and one that is large enough for several chunks."""
    rank, world = me_and_world()
    for count in (1, 10_000):
        tensor = torch.full((count,), float(rank))
        dist.all_reduce(tensor)
        same(tensor, torch.full((count,), world * (world - 1) / 2))
