"""Starts the ranks of a program on this host, in the environment that torchrun would give them.

One command so runs both ways: under torchrun the ranks are there already (`is_rank`), without it
the command starts itself once per rank (`launch`). The rendezvous store lives in the launching
process, on a port that the system picks.
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
    """Tells whether this process is one of a job's ranks (of torchrun's, or of `launch`'s)."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank_environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """Returns the environment of one rank; its store is this process's, on `port`."""
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
    """Runs `command` once per rank and waits; when one fails, the others are stopped.

    Standard output and error of every rank are this process's own.

    Returns:
        0 when every rank succeeded, else the exit status of the first that failed (128 + the
        signal's number for one that a signal ended).
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
    """Waits until every rank has ended well or one has not; returns `launch`'s exit status."""
    while True:
        statuses = [rank.poll() for rank in ranks]
        for status in statuses:
            if status:
                return status if status > 0 else 128 - status
        if None not in statuses:
            return 0
        time.sleep(POLL_SECONDS)


def stop(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends the ranks that still run: asks first, then kills."""
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
