"""Starts the ranks of a program on this host, with the environment that torchrun would set.

So one command runs both ways: under torchrun it is already a rank (`is_rank`), and otherwise it
starts itself once per rank (`launch`). The rendezvous store lives in the launching process, on a
port that the system picks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

STOP_SECONDS = 5.0
POLL_SECONDS = 0.05
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def is_rank() -> bool:
    """Tells whether this process is a rank of a job, started by torchrun or by `launch`."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def world_size() -> int | None:
    """Returns the number of ranks of the job, or None if this process is not a rank."""
    return int(os.environ["WORLD_SIZE"]) if is_rank() else None


def environment_problems() -> list[str]:
    """Returns why the environment of this rank cannot be used; empty if it can, or for no rank."""
    if not is_rank():
        return []
    advice = "start the ranks with torchrun, or unset RANK and WORLD_SIZE"
    problems = [
        f"{name} is {os.environ[name]!r} in the environment, not a whole number: {advice}"
        for name in ("RANK", "WORLD_SIZE")
        if not os.environ[name].isdecimal()
    ]
    if not problems and int(os.environ["RANK"]) >= int(os.environ["WORLD_SIZE"]):
        rank, world = os.environ["RANK"], os.environ["WORLD_SIZE"]
        problems.append(f"RANK is {rank} and WORLD_SIZE {world} in the environment: {advice}")
    problems += [
        f"{name} is not set in the environment, but RANK and WORLD_SIZE are: {advice}"
        for name in ("MASTER_ADDR", "MASTER_PORT")
        if name not in os.environ
    ]
    return problems


def rank_environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """Returns the environment of one rank, whose store is this process's at `port`."""
    environment = dict(os.environ)
    threads = max(1, len(os.sched_getaffinity(0)) // world_size)
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    environment.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",
    )
    return environment


def launch(command: Sequence[str], world_size: int) -> int:
    """Runs `command` once per rank and waits for all of them; if one fails, stops the others.

    All ranks write to this process's standard output and error. If Ctrl-C, SIGTERM or SIGHUP ends
    this process, the ranks end with it.

    Returns:
        0 if every rank succeeded, else the exit status of the first rank that failed (128 + the
        signal's number if a signal ended it, or this process).
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks: list[subprocess.Popen[bytes]] = []
    with _interrupted_once():
        try:
            with _sigint_blocked():
                for rank in range(world_size):
                    environment = rank_environment(rank, world_size, store.port)
                    ranks.append(
                        subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
                    )
            return wait(ranks)
        except KeyboardInterrupt as interrupt:
            number = signal.Signals(interrupt.args[0] if interrupt.args else signal.SIGINT)
            print(f"stopped by {number.name}; all ranks are ended", file=sys.stderr)
            return 128 + number
        finally:
            stop(ranks)


def wait(ranks: Sequence[subprocess.Popen[bytes]]) -> int:
    """Waits until every rank has succeeded or one has failed; returns `launch`'s exit status."""
    while True:
        statuses = [rank.poll() for rank in ranks]
        for rank, status in enumerate(statuses):
            if status is not None and status < 0:
                cause = f"signal {-status} ({signal.strsignal(-status)})"
                hint = ": was there enough memory?" if -status == signal.SIGKILL else ""
                print(f"rank {rank} was ended by {cause}{hint}", file=sys.stderr)
            if status:
                return status if status > 0 else 128 - status
        if None not in statuses:
            return 0
        time.sleep(POLL_SECONDS)


def stop(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Terminates the ranks that still run, and kills those that do not end in time."""
    for rank in ranks:
        if rank.poll() is None:
            rank.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for rank in ranks:
        try:
            rank.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            rank.kill()
            rank.wait()


@contextlib.contextmanager
def _interrupted_once() -> Iterator[None]:
    """Turns the first ending signal into a KeyboardInterrupt, and ignores those that follow.

    So a second Ctrl-C cannot interrupt the stopping of the ranks.
    """

    def interrupt(number: int, _frame: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt(number)

    # A signal that is ignored stays ignored, as under nohup.
    before = {
        each: handler
        for each in ENDING_SIGNALS
        if (handler := signal.getsignal(each)) not in (signal.SIG_IGN, None)
    }
    for each in before:
        signal.signal(each, interrupt)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Blocks SIGINT in this thread, and for good in the processes that it starts meanwhile.

    A terminal sends Ctrl-C to every process. Only this one shall react, and end the ranks.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
