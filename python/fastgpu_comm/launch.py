"""Starts the ranks of a program on this host, with the environment that torchrun would set.

So one command runs both ways: under torchrun it is already a rank (`is_rank`), and otherwise it
starts itself once per rank (`launch`). The rendezvous store lives in the launching process, on a
port that the system picks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence

STOP_SECONDS = 5.0
POLL_SECONDS = 0.05


def is_rank() -> bool:
    """Tells whether this process is a rank of a job, started by torchrun or by `launch`."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank_environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """Returns the environment of one rank, whose store is this process's at `port`."""
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", "1")
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

    All ranks write to this process's standard output and error.

    Returns:
        0 if every rank succeeded, else the exit status of the first rank that failed (128 + the
        signal's number if a signal ended it).
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(world_size):
            environment = rank_environment(rank, world_size, store.port)
            ranks.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL))
        return wait(ranks)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        stop(ranks)


def wait(ranks: Sequence[subprocess.Popen[bytes]]) -> int:
    """Waits until every rank has succeeded or one has failed; returns `launch`'s exit status."""
    while True:
        statuses = [rank.poll() for rank in ranks]
        for status in statuses:
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
