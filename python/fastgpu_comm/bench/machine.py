"""Describes the machine and the software of a measurement."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path

import fastgpu_comm


def describe() -> dict[str, str]:
    """Returns the date, the processor, the memory, the kernel and the versions of the software."""
    import torch

    return {
        "date": datetime.date.today().isoformat(),
        "fastgpu_comm": f"fastgpu_comm {fastgpu_comm.__version__}",
        "cpu": f"{len(os.sched_getaffinity(0))} x {cpu_model()}",
        "memory": f"{memory_bytes() / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"Python {platform.python_version()}",
        "torch": f"torch {torch.__version__}",
    }


def origin() -> str:
    """Returns the version of this package and the date, for pictures."""
    return f"fastgpu_comm {fastgpu_comm.__version__}, {datetime.date.today().isoformat()}"


def cpu_model() -> str:
    """Returns the name of the processor."""
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith(("model name", "CPU part", "Model")):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def memory_bytes() -> int:
    """Returns the size of the memory of this host."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def crowding() -> str:
    """Returns a note if the ranks of this host share its processors; else an empty text."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0))
    if ranks <= cores:
        return ""
    return f"{ranks} ranks share {cores} processors: a rank may have to wait for one, so times vary"
