"""Checks of a rank that is stopped (SIGSTOP) and goes on later. Run by test_stopped_rank.py."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.events import Events, survivors
from tests.process.failure_checks import MARGIN_S

import fastgpu_comm

TIMEOUT_S = 2.0
MARK = -7.0
STOPS_IN = 5  # the number of the call


def _reduce_until_it_fails(
    tensor: torch.Tensor,
    group: dist.ProcessGroup,
    before: Callable[[], None] = lambda: None,
    during: Callable[[], None] = lambda: None,
) -> tuple[fastgpu_comm.CommError, float]:
    """Reduces again and again; returns the error, and how long the failed call took.

    Calls `before` in front of one call, and `during` between its start and its end.
    """
    for number in range(1_000_000):
        tensor.fill_(1.0)
        if number == STOPS_IN:
            before()
        start = time.monotonic()
        try:
            work = dist.all_reduce(tensor, group=group, async_op=True)
            if number == STOPS_IN:
                during()
            assert work is not None
            work.wait()
        except fastgpu_comm.CommError as error:
            return error, time.monotonic() - start
    raise AssertionError("no call failed")


def stopped_rank(count: int, symmetric: bool, within: bool) -> None:
    """The last rank is stopped. The others must fail in time.

    When it goes on, it must fail, too, and must not write into the others' memory any more.

    Args:
        count: The elements of each all_reduce.
        symmetric: They lie in symmetric memory.
        within: It is stopped in the middle of a call; else in front of one. In the middle it may
            have sent something to one survivor and not to the other. The first then waits for the
            second, and its error says that the second may be waiting, too.
    """
    rank, world = me_and_world()
    last = world - 1
    events = Events()
    options = fastgpu_comm.Options(algorithm="direct", timeout=timedelta(seconds=TIMEOUT_S))
    group = dist.new_group(backend="fastgpu", pg_options=options)
    tensor = fastgpu_comm.empty(count) if symmetric else torch.empty(count)
    if rank == last:
        events.set("pid", os.getpid())
        stops = (lambda: None) if within else (lambda: os.kill(os.getpid(), signal.SIGSTOP))
        error, _ = _reduce_until_it_fails(tensor, group, before=stops)
        events.set("the stopped rank has failed", repr(error))
        events.wait(*(f"done {peer}" for peer in survivors(missing=last)))
        return
    stopped = int(events.get("pid"))

    def stop_the_last_rank() -> None:
        if within and rank == 0:
            os.kill(stopped, signal.SIGSTOP)

    try:
        error, seconds = _reduce_until_it_fails(tensor, group, during=stop_the_last_rank)
        tensor.fill_(MARK)
        events.set(f"failed {rank}")
        events.wait(*(f"failed {peer}" for peer in survivors(missing=last)))
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert isinstance(error, fastgpu_comm.CollectiveTimeoutError), repr(error)
    assert seconds < TIMEOUT_S + MARGIN_S
    if not within or error.peer == last:
        assert error.peer == last, error
        named = rf"rank {last} \(host {re.escape(socket.gethostname())}, pid {stopped}\)"
        assert re.search(named, str(error)), error
    else:
        assert error.peer in survivors(missing=last), error
        assert re.search("(or waits|may wait) for another rank", str(error)), error
    events.wait("the stopped rank has failed")
    assert torch.equal(tensor, torch.full_like(tensor, MARK)), "it was written later"
    events.set(f"done {rank}")
