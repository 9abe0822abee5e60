"""What `bench` and `train` share: they start ranks, and report an error of a rank in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

RANK_MEMORY_BYTES = 128 * 2**20  # of a Python process that has loaded torch


def start(argv: Sequence[str], count: int) -> int:
    """Starts this command once per rank on this host; returns its exit status."""
    from fastgpu_comm import launch

    return launch.launch([sys.executable, "-m", "fastgpu_comm", *argv], count)


def problems(count: int) -> list[str]:
    """Returns why `count` ranks cannot be started, or why this process cannot be a rank."""
    from fastgpu_comm import launch
    from fastgpu_comm.bench import machine

    if launch.is_rank():
        return launch.environment_problems()
    most = machine.memory_bytes() // RANK_MEMORY_BYTES
    if count <= most:
        return []
    return [f"{count} ranks do not fit into the memory of this host: --nproc can be {most} at most"]


def backend_problems(backends: Sequence[str]) -> list[str]:
    """Returns why the ranks could not make groups of these backends."""
    from fastgpu_comm.backend import why_not_available

    found = [reason for backend in backends if (reason := why_not_available(backend))]
    if "fastgpu" in backends and not found:
        from fastgpu_comm import native
        from fastgpu_comm.errors import InvalidArgumentError

        for name in sorted(os.environ):
            try:
                native.check_variable(os.fsencode(name), os.fsencode(os.environ[name]))
            except InvalidArgumentError as error:
                found.append(str(error))
    return found


def run(command: str, body: Callable[[], int]) -> int:
    """Runs a rank's part of a command; an error becomes one line, and the status 1.

    Errors of the network, of files and of the backends say what to do, so a traceback would hide
    the message. FASTGPU_LOG=debug shows it all the same.
    """
    try:
        return body()
    except BrokenPipeError:
        raise
    except (RuntimeError, OSError, ValueError, MemoryError) as error:
        if os.environ.get("FASTGPU_LOG") == "debug":
            raise
        first_line = next(iter(str(error).splitlines()), "")
        rank = os.environ.get("RANK", "0")
        text = f"rank {rank}: {type(error).__name__}: {first_line}"
        print(f"fastgpu-comm {command}: {text}", file=sys.stderr, flush=True)
        return 1
