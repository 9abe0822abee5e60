"""Forks ranks that end as any Python program does, for test_exit.py.

The ranks of ranks.py end with os._exit, as all processes of multiprocessing do, so the interpreter
never shuts down in them. This program imports torch once. For every request, a line of JSON with
the name of a case in exit_cases.py, it forks the ranks, waits for them, and answers with a line of
their exit statuses. Each rank writes its output to a file.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from tests.process import exit_cases

import fastgpu_comm.native  # noqa: F401  loaded before the fork, as in a notebook

HUNG_SECONDS = 60.0


def serve() -> tuple[dict[str, Any], int] | None:
    """Returns the request and the rank in every process that was forked; None at the end."""
    for line in sys.stdin:
        request = json.loads(line)
        pids = []
        for rank in range(request["world"]):
            pid = os.fork()
            if pid == 0:
                return request, rank
            pids.append(pid)
        print(json.dumps([status_of(pid) for pid in pids]), flush=True)
    return None


def status_of(pid: int) -> int | None:
    """Waits for a process; returns its exit status, or None if it hung and was killed."""
    ended = select.poll()
    process = os.pidfd_open(pid)
    ended.register(process, select.POLLIN)
    hung = not ended.poll(HUNG_SECONDS * 1000)
    if hung:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(process)
    return None if hung else os.waitstatus_to_exitcode(status)


mine = serve()
if mine is not None:
    request, rank = mine
    folder = Path(request["folder"])
    output = os.open(folder / f"output.{rank}", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    getattr(exit_cases, request["case"])(exit_cases.Place(rank, request["world"], folder))
