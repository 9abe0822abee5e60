"""Repeats a measurement if other programs used the processors meanwhile.

A training step on a busy machine takes several times as long, and not alike for all variants.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

ALLOWED = 0.1  # processors that other programs may use
ATTEMPTS = 10
PAUSE_S = 5.0  # before another attempt

Result = TypeVar("Result")


@dataclass
class Counts:
    """How many measurements were repeated, and how many were disturbed in every attempt."""

    repeated: int = 0
    disturbed: int = 0


def busy_seconds() -> float:
    """Returns the processor time of all programs of this machine since it started."""
    user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def undisturbed(measure: Callable[[], Result], counts: Counts) -> Result:
    """Calls `measure` until other programs leave it alone, or as often as allowed. A collective.

    All ranks must be on this machine. Time in interrupts, as of a network, is nobody's.
    """
    for attempt in range(ATTEMPTS):
        dist.barrier()
        start, busy, mine = time.perf_counter(), busy_seconds(), time.process_time()
        result = measure()
        spent = torch.tensor([time.process_time() - mine], dtype=torch.float64)
        dist.all_reduce(spent)
        others = (busy_seconds() - busy - spent) / (time.perf_counter() - start)
        dist.broadcast(others, 0)
        if others.item() <= ALLOWED:
            return result
        if attempt + 1 < ATTEMPTS:
            time.sleep(PAUSE_S)
            counts.repeated += 1
    counts.disturbed += 1
    return result
