"""Programs that end in many ways while the backend still has something to do. See exit_ranks.py."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import select
import signal
import sys
import threading
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

import fastgpu_comm

TIMEOUT = timedelta(seconds=50)


@dataclass(frozen=True)
class Place:
    """A rank of a case, and the folder in which it leaves its results."""

    rank: int
    world: int
    folder: Path

    def init(self) -> dist.Store:
        """Makes the process group, and returns its store."""
        store = dist.FileStore(str(self.folder / "store"), self.world)
        dist.init_process_group(
            "fastgpu", store=store, rank=self.rank, world_size=self.world, timeout=TIMEOUT
        )
        return store

    def meet(self, store: dist.Store) -> None:
        """Waits until every rank is here; once in a case."""
        store.set(f"rank {self.rank}", "")
        store.wait([f"rank {rank}" for rank in range(self.world)])

    def note(self, name: str, text: str = "") -> None:
        """Leaves a result for the test."""
        (self.folder / name).write_text(text)


def pending(place: Place, store: dist.Store) -> torch.futures.Future[list[torch.Tensor]]:
    """Returns the future of an operation that never ends, once every rank has one."""
    work = dist.irecv(torch.zeros(4), 1 - place.rank, tag=99)
    assert work is not None
    future = work.get_future()
    place.meet(store)
    return future


def wait_for_the_end_of(pid: int) -> None:
    """Returns when the process has ended."""
    ended = select.poll()
    ended.register(os.pidfd_open(pid), select.POLLIN)
    ended.poll()


def with_a_pending_message(place: Place) -> None:
    pending(place, place.init())


def with_a_pending_collective(place: Place) -> None:
    store = place.init()
    if place.rank == 0:
        work = dist.all_reduce(torch.ones(100_000), async_op=True)
        assert work is not None
        work.get_future()
    place.meet(store)


def with_a_pending_callback(place: Place) -> None:
    future = pending(place, place.init())
    for _ in range(3):
        future = future.then(lambda done: done.value())


def with_a_running_callback(place: Place) -> None:
    """The callback goes on running Python while the interpreter is about to shut down."""
    place.init()
    ends = threading.Event()
    runs = threading.Event()

    def run(done: torch.futures.Future[list[torch.Tensor]]) -> None:
        runs.set()
        ends.wait()
        place.note(f"callback {place.rank}", str(sum(range(1_000_000))))

    work = dist.irecv(torch.empty(1), 1 - place.rank)
    assert work is not None
    work.get_future().then(run)
    dist.barrier()  # no message comes before: the future would run the callback in this thread
    dist.send(torch.ones(1), 1 - place.rank)
    runs.wait()
    atexit.register(ends.set)


def with_a_callback_that_calls(place: Place) -> None:
    """The callback makes calls when the operation has failed, with and without the GIL."""
    future = pending(place, place.init())
    future.then(lambda _: dist.all_reduce(torch.ones(4)))
    future.then(lambda _: fastgpu_comm.Options(lanes="bad"))


def with_an_error(place: Place) -> None:
    pending(place, place.init())
    raise ValueError("a mistake")


def with_sys_exit_in_a_thread(place: Place) -> None:
    pending(place, place.init())
    thread = threading.Thread(target=sys.exit, args=(5,))
    thread.start()


def with_os_exit(place: Place) -> None:
    pending(place, place.init())
    os._exit(7)


def with_a_thread_that_waits(place: Place) -> None:
    """A daemon thread waits for a collective that the other rank never calls."""
    store = place.init()
    dist.all_reduce(torch.ones(4))  # connects the ranks
    if place.rank == 0:
        thread = threading.Thread(target=dist.all_reduce, args=(torch.ones(4),), daemon=True)
        thread.start()
        while fastgpu_comm.stats()["operations"] < 2:
            pass
        store.set("waits", str(os.getpid()))
    else:
        wait_for_the_end_of(int(store.get("waits")))


def with_threads_that_call(place: Place) -> None:
    """Daemon threads go on calling collectives for ever."""
    place.init()
    called = threading.Event()

    def call() -> None:
        with contextlib.suppress(fastgpu_comm.CommError):  # the other rank ends first
            while True:
                try:
                    dist.all_reduce(torch.ones(4))
                finally:
                    called.set()

    threading.Thread(target=call, daemon=True).start()
    called.wait()


def with_a_killed_peer(place: Place) -> None:
    store = place.init()
    dist.all_reduce(torch.ones(4))
    store.set(f"pid {place.rank}", str(os.getpid()))
    future = pending(place, store)
    if place.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    future.then(lambda done: done.value())
    wait_for_the_end_of(int(store.get("pid 1")))


def with_a_numpy_tensor_pending(place: Place) -> None:
    """The pending operation keeps memory that belongs to a Python object."""
    import numpy

    store = place.init()
    work = dist.irecv(torch.from_numpy(numpy.zeros(4)), 1 - place.rank)
    assert work is not None
    work.get_future()
    place.meet(store)


def using_the_group_at_exit(place: Place) -> None:
    """A function of the program's own uses and destroys the group at exit, as is common."""

    def clean_up() -> None:
        ones = torch.ones(4)
        dist.all_reduce(ones)
        dist.destroy_process_group()
        place.note(f"cleaned up {place.rank}", str(ones.tolist()))

    atexit.register(clean_up)
    place.init()


def _report(place: Place) -> None:
    """Waits in the first collective for a rank that has left, and leaves the error."""
    stats = fastgpu_comm.stats()
    assert stats["operations"] == stats["bytes_sent"] == stats["bytes_received"] == 0, stats
    try:
        dist.all_reduce(torch.ones(4))
    except (fastgpu_comm.PeerLostError, fastgpu_comm.AbortedError) as error:
        place.note("error", str(error))


def peer_raises(place: Place) -> None:
    place.init()
    if place.rank == 1:
        raise ValueError("a bad\ninput")
    _report(place)


def peer_raises_and_is_missed_later(place: Place) -> None:
    """No other rank has a link to the peer, or calls a collective before its process has ended."""
    store = place.init()
    if place.rank == 1:
        store.set("pid", str(os.getpid()))
        raise ValueError("a bad input")
    wait_for_the_end_of(int(store.get("pid")))
    try:
        dist.all_reduce(torch.ones(4))
    except fastgpu_comm.PeerLostError as error:
        place.note(f"error {place.rank}", str(error))


def peer_raises_text_that_is_not_utf8(place: Place) -> None:
    place.init()
    if place.rank == 1:
        raise ValueError(f"bad file {os.fsdecode(bytes([0xFF]))}.txt")
    _report(place)


class _TextlessError(Exception):
    def __str__(self) -> str:
        sys.exit(4)


def peer_raises_an_error_that_cannot_be_shown(place: Place) -> None:
    place.init()
    if place.rank == 1:
        raise _TextlessError
    _report(place)


def peer_calls_sys_exit(place: Place) -> None:
    place.init()
    if place.rank == 1:
        sys.exit(3)
    _report(place)


def peer_destroys_its_group(place: Place) -> None:
    place.init()
    if place.rank == 0:
        _report(place)
    dist.destroy_process_group()


def peer_destroys_its_group_because_of_an_error(place: Place) -> None:
    place.init()
    try:
        if place.rank == 1:
            raise ValueError("a bad input")
        _report(place)
    finally:
        dist.destroy_process_group()


def peer_destroys_its_group_at_exit_after_an_error(place: Place) -> None:
    atexit.register(dist.destroy_process_group)
    place.init()
    if place.rank == 1:
        raise ValueError("a bad input")
    _report(place)


def peer_aborts_its_group_because_of_an_error(place: Place) -> None:
    place.init()
    try:
        if place.rank == 1:
            raise ValueError("a bad input")
        _report(place)
    except ValueError:
        dist.distributed_c10d._abort_process_group()


class Branches(nn.Module):
    """A model of which a forward pass may leave a part unused."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.other = nn.Linear(96, 96), nn.Linear(96, 96)

    def forward(self, x: torch.Tensor, uses_both: bool) -> torch.Tensor:
        y: torch.Tensor = self.used(x)
        return y + self.other(x) if uses_both else y


def _peer_leaves_parameters_unused(place: Place, codec: str | None) -> None:
    place.init()
    model = fastgpu_comm.DistributedDataParallel(Branches(), codec=codec)
    try:
        for _ in range(2):
            model(torch.ones(2, 96), place.rank == 0).sum().backward()
    except fastgpu_comm.PeerLostError as error:
        place.note("error", str(error))


def peer_leaves_parameters_unused(place: Place) -> None:
    _peer_leaves_parameters_unused(place, None)


def peer_leaves_parameters_with_a_codec_unused(place: Place) -> None:
    _peer_leaves_parameters_unused(place, "int8")


def peer_destroys_its_group_because_of_unused_parameters(place: Place) -> None:
    try:
        _peer_leaves_parameters_unused(place, None)
    finally:
        dist.destroy_process_group()


def _forked(rank: int, folder: Path) -> None:
    place = Place(rank, 2, folder)
    place.init()
    ones = torch.ones(100_000)
    work = dist.all_reduce(ones, async_op=True)
    assert work is not None
    work.get_future().wait()
    dist.destroy_process_group()
    place.note(f"result {rank}", str(ones[-1].item()))


def forks_after_its_groups(place: Place) -> None:
    """As in a notebook: a process that had groups forks ranks, again and again."""
    for turn in range(2):
        place.init()
        held = fastgpu_comm.empty(10)
        work = dist.all_reduce(held, async_op=True)
        assert work is not None
        work.get_future().wait()
        dist.destroy_process_group()
        folder = place.folder / f"turn {turn}"
        folder.mkdir()
        fork = multiprocessing.get_context("fork")
        ranks = [fork.Process(target=_forked, args=(rank, folder)) for rank in range(2)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
        assert [rank.exitcode for rank in ranks] == [0, 0]


def after_training_over_gloo(place: Place) -> None:
    """Training leaves the group to no one, so gloo's threads end with it and not at the exit."""
    from fastgpu_comm.trainer import Datasets, Trainer, TrainerSettings, classification

    store = dist.FileStore(str(place.folder / "store"), place.world)
    dist.init_process_group("gloo", store=store, rank=place.rank, world_size=place.world)
    model = torch.nn.Linear(2, 2)
    samples = [(torch.ones(2), torch.tensor(1))] * 8
    settings = TrainerSettings(steps=2, batch_size=4, folder=None, tensorboard=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Trainer(model, optimizer, Datasets(samples, samples), classification, settings).fit()
    dist.destroy_process_group()
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert not any("gloo" in name for name in threads), threads
