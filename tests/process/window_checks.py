"""Checks of windows: put, signal, wait_signal. Run by test_windows.py, from torch 2.14 on."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.group_checks import default_group
from tests.process.reference import same

import fastgpu_comm

# Larger than what a channel holds, and than one frame of a put.
LARGE = 3 * 1024 * 1024 // 4 + 5


def new_window(tensor: torch.Tensor | None = None, group: Any = None) -> Any:
    """Torch's own function, which is in no stub before torch 2.14."""
    return vars(dist)["_new_window"](tensor, group)


def options(kind: str, seconds: float) -> Any:
    made = getattr(torch._C._distributed_c10d, kind)()
    made.timeout = timedelta(seconds=seconds)
    return made


def memory(symmetric: bool, count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    if symmetric:
        return fastgpu_comm.empty(count, dtype=dtype).zero_()
    return torch.zeros(count, dtype=dtype)


def meet(window: Any) -> None:
    """Every rank signals every rank, itself too, and waits for all: all earlier puts are there."""
    _, world = me_and_world()
    for peer in range(world):
        window.signal(peer, False)
    for peer in range(world):
        window.wait_signal(peer, False)


def all_to_all(symmetric: bool) -> None:
    """Each rank writes its part of every rank's window; the last put to a place counts."""
    rank, world = me_and_world()
    for count in (1, 1000, LARGE):
        mine = memory(symmetric, world * count)
        window = new_window(mine)
        for peer in range(world):
            window.put(torch.full((count,), -1.0), peer, rank * count, False)
            window.put(torch.arange(count) + float(rank), peer, rank * count, False)
        meet(window)
        same(mine.view(world, count), torch.arange(count) + torch.arange(world).view(-1, 1).float())
        window.tensor_deregister()


def random_puts(symmetric: bool) -> None:
    """Windows of all sizes and dtypes, written at random, are as if written in order."""
    rank, world = me_and_world()
    for seed in range(6):
        draw = random.Random(seed)  # the same on every rank
        dtypes = [draw.choice((torch.uint8, torch.float64, torch.bfloat16)) for _ in range(world)]
        counts = [draw.randrange(200_000) for _ in range(world)]
        mine = memory(symmetric, counts[rank], dtypes[rank])
        wanted = torch.zeros_like(mine)
        window = new_window(mine)
        for _ in range(5):
            for source in range(world):  # one writer at a time
                for _ in range(4):
                    peer = draw.randrange(world)
                    size = draw.randrange(counts[peer] + 1)
                    offset = draw.randrange(counts[peer] - size + 1)
                    data = torch.full((size,), draw.randrange(100), dtype=dtypes[peer])
                    is_async = draw.random() < 0.5
                    if source == rank:
                        window.put(data, peer, offset, is_async).wait()
                    if peer == rank:
                        wanted[offset : offset + size] = data
                if source == rank:
                    for peer in range(world):
                        window.signal(peer, False)
                window.wait_signal(source, False)
                dist.barrier()
        same(mine, wanted)
        window.tensor_deregister()


def signals_are_counted() -> None:
    """A wait consumes one signal; a put signals nothing."""
    rank, _ = me_and_world()
    mine = memory(True, 4)
    window = new_window(mine)
    if rank == 0:
        window.put(torch.ones(4), 1, 0, False)
        for _ in range(2):
            window.signal(1, False)
    else:
        for _ in range(2):
            window.wait_signal(0, False)
        same(mine, torch.ones(4))
        pending = window.wait_signal(0, True)
        assert not pending.is_completed()
    dist.barrier()
    if rank == 0:
        window.signal(1, True).wait()
    else:
        pending.wait()
        assert pending.is_completed()
    with pytest.raises(fastgpu_comm.InvalidArgumentError, match="no signal that it has not waited"):
        window.wait_signal(rank, False)
    window.tensor_deregister()


def windows_do_not_mix() -> None:
    """A wait ignores the signals of other windows and groups, and messages."""
    rank, world = me_and_world()
    other_group = dist.new_group(list(range(world)))
    windows = [new_window(memory(False, 1)) for _ in range(2)]
    windows.append(new_window(memory(False, 1), other_group))
    received = torch.zeros(1)
    if rank == 0:
        dist.send(torch.ones(1), 1, tag=0)
        for window in reversed(windows):
            window.signal(1, False)
    else:
        for window in windows:
            window.wait_signal(0, False, options("WaitSignalOptions", 60))
        dist.recv(received, 0, tag=0)
        same(received, torch.ones(1))
    for window in windows:
        window.tensor_deregister()


def mapped() -> None:
    """A rank reads and writes a peer's tensor in place, in the peer's shape."""
    rank, world = me_and_world()
    mine = fastgpu_comm.empty(rank + 2, 3, dtype=torch.int64).fill_(rank)
    window = new_window(mine)
    for peer in range(world):
        theirs = window.map_remote_tensor(peer)
        same(theirs, torch.full((peer + 2, 3), peer, dtype=torch.int64))
    meet(window)
    window.map_remote_tensor((rank + 1) % world)[1, 2] = 100 + rank
    meet(window)
    assert mine[1, 2] == 100 + (rank - 1) % world
    assert window.get_attr(0).access_type.name == "UNIFIED"
    window.tensor_deregister()


def not_mapped(reason: str) -> None:
    rank, _ = me_and_world()
    window = new_window(memory(reason == "TCP", 4))
    with pytest.raises(fastgpu_comm.InvalidArgumentError, match=reason):
        window.map_remote_tensor(1 - rank)
    same(window.map_remote_tensor(rank), torch.zeros(4))
    window.tensor_deregister()


def sources() -> None:
    """Views, scalars and empty tensors can be put; the window keeps its tensor alive."""
    rank, _ = me_and_world()
    for symmetric in (True, False):
        window = new_window(memory(symmetric, 12))
        matrix = torch.arange(12.0).view(3, 4)
        window.put(matrix.t(), 1 - rank, 0, False)
        window.put(torch.tensor(7.0), 1 - rank, 11, False)
        window.put(torch.zeros(0), 1 - rank, 12, False)
        meet(window)
        wanted = matrix.t().reshape(-1).clone()
        wanted[11] = 7.0
        same(window.map_remote_tensor(rank), wanted)
        window.tensor_deregister()


def registered_again() -> None:
    """Puts without a signal have arrived once the window is deregistered, on every rank."""
    rank, _ = me_and_world()
    window = new_window()
    for symmetric in (False, True, False):
        mine = memory(symmetric, LARGE)
        window.tensor_register(mine, owning=symmetric)
        work = window.put(torch.full((LARGE,), 3.0), 1 - rank, 0, True)
        window.signal(1 - rank, True)  # nobody waits for it
        window.tensor_deregister()
        same(mine, torch.full((LARGE,), 3.0))
        work.wait()
    calls: tuple[Callable[[], object], ...] = (
        window.tensor_deregister,
        lambda: window.put(torch.ones(1), 0, 0, False),
        lambda: window.signal(0, False),
        lambda: window.wait_signal(0, False),
        lambda: window.map_remote_tensor(0),
    )
    for call in calls:
        with pytest.raises(fastgpu_comm.InvalidArgumentError, match="call tensor_register"):
            call()


def bad_arguments() -> None:
    """Each error says what was given and what is allowed, and changes nothing."""
    _, world = me_and_world()
    mine = memory(True, 10)
    window = new_window(mine)
    ones = torch.ones(4)
    cases: tuple[tuple[str, Callable[[], object]], ...] = (
        (f"rank {world} is not in this group; its ranks are 0 to {world - 1}",
         lambda: window.put(ones, world, 0, False)),
        ("rank -1 is not in this group", lambda: window.signal(-1, False)),
        ("rank 99 is not in this group", lambda: window.wait_signal(99, False)),
        ("rank 2 is not in this group", lambda: window.map_remote_tensor(2)),
        ("rank 2 is not in this group", lambda: window.get_attr(2)),
        ("4 elements at offset 7 do not fit into the window of rank 1, which has 10 elements",
         lambda: window.put(ones, 1, 7, False)),
        ("1 element at offset -1 do", lambda: window.put(ones[:1], 1, -1, False)),
        ("at offset 9223372036854775807 do", lambda: window.put(ones, 1, 2**63 - 1, False)),
        ("the tensor has dtype Double, and the window of rank 0 has Float",
         lambda: window.put(ones.double(), 0, 0, False)),
        ("must be dense", lambda: window.put(ones.to_sparse(), 0, 0, False)),
        ("a tensor is on meta", lambda: window.put(ones.to("meta"), 0, 0, False)),
        ("the window has a tensor already", lambda: window.tensor_register(mine)),
    )  # fmt: skip
    for text, call in cases:
        with pytest.raises(fastgpu_comm.InvalidArgumentError, match=re.escape(text)):
            call()
    meet(window)
    same(mine, torch.zeros(10))
    window.tensor_deregister()


def bad_registration() -> None:
    """One rank's bad tensor raises on every rank; then all can register again."""
    rank, _ = me_and_world()
    bad: tuple[tuple[str, torch.Tensor], ...] = (
        ("not contiguous", torch.zeros(4, 4).t()),
        ("at most 16", torch.zeros([1] * 17)),
        ("must be dense", torch.zeros(4).to_sparse()),
    )
    window = new_window()
    for text, tensor in bad:
        expected = text if rank == 1 else r"rank 1 \(.*\) gave a tensor that cannot be registered"
        with pytest.raises(fastgpu_comm.InvalidArgumentError, match=expected):
            window.tensor_register(tensor if rank == 1 else memory(True, 4))
    window.tensor_register(memory(True, 4))
    meet(window)
    window.tensor_deregister()
    others = [new_window(), new_window()]
    with pytest.raises(fastgpu_comm.InvalidArgumentError, match="in the same order on every rank"):
        others[rank].tensor_register(memory(False, 1))


def estimated() -> None:
    """Under an estimate nothing is written or signalled, and no window is set up."""
    rank, _ = me_and_world()
    mine = memory(True, 1 << 20)
    window = new_window(mine)
    if rank == 0:
        estimates = []
        for count in (1, 1 << 20):
            with vars(dist)["_time_estimator"]() as estimate:
                window.put(torch.ones(count), 1, 0, False)
                window.signal(1, False)
                window.wait_signal(1, False)
            estimates.append(estimate.estimated_time)
        assert 0 < estimates[0] < estimates[1]
        with (
            vars(dist)["_time_estimator"](),
            pytest.raises(ValueError, match="while time is estimated"),
        ):
            new_window(mine)
    else:
        new_window()
    meet(window)
    same(mine, torch.zeros(1 << 20))
    window.tensor_deregister()


def other_threads() -> None:
    """A thread that waits for a signal holds up no other thread of Python."""
    rank, _ = me_and_world()
    window = new_window(memory(True, 1))
    if rank == 0:
        waiting = threading.Thread(target=lambda: window.wait_signal(1, False))
        waiting.start()
        window.signal(1, False)
        waiting.join(timeout=60)
        assert not waiting.is_alive()
    else:
        window.wait_signal(0, False)
        window.signal(0, False)
    window.tensor_deregister()


def dropped() -> None:
    """A window that ends without tensor_deregister() takes its memory back; its content stays."""
    rank, _ = me_and_world()
    mine = memory(True, 4).fill_(1)
    window = new_window(mine)
    theirs = window.map_remote_tensor(1 - rank)
    dist.barrier()
    if rank == 0:
        del window
    dist.barrier()
    if rank == 1:
        theirs.fill_(2)
    dist.barrier()
    same(mine, torch.ones(4))


def times_out() -> None:
    """The error names the rank that did not signal, and the group is dead."""
    rank, world = me_and_world()
    group = dist.new_group(list(range(world)))
    window = new_window(memory(True, 4), group)
    if rank == 0:
        text = r"Timed out after 300 ms: wait_signal waited for rank 1 \("
        with pytest.raises(fastgpu_comm.CollectiveTimeoutError, match=text) as caught:
            window.wait_signal(1, False, options("WaitSignalOptions", 0.3))
        assert caught.value.peer == 1
        assert caught.value.op == "wait_signal"
        for call in (
            lambda: window.put(torch.ones(1), 1, 0, False),
            lambda: window.signal(1, False),
            lambda: window.wait_signal(1, False),
            window.tensor_deregister,
        ):
            with pytest.raises(fastgpu_comm.CollectiveTimeoutError):
                call()
    dist.barrier()


def put_until_it_fails(window: Any, data: torch.Tensor) -> None:
    while True:
        window.put(data, 1, 0, False)


def killed(symmetric: bool) -> None:
    """Rank 1 dies: a rank that waits for its signal, or puts into its window, hears so."""
    rank, world = me_and_world()
    group = dist.new_group(list(range(world)))
    window = new_window(memory(symmetric, LARGE), group)
    default = default_group()
    dist.barrier(group=default)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 0:
        with pytest.raises(fastgpu_comm.PeerLostError, match=r"rank 1 \(.*was lost") as caught:
            window.wait_signal(1, False)
        assert caught.value.peer == 1
    else:
        with pytest.raises(fastgpu_comm.PeerLostError, match=r"rank 1 \(.*was lost"):
            put_until_it_fails(window, torch.ones(LARGE))
    with pytest.raises(fastgpu_comm.PeerLostError):
        window.put(torch.ones(1), 1, 0, False)
