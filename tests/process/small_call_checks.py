"""The measurement for tests/process/test_small_call.py, run on a rank."""

from __future__ import annotations

import time

import torch
import torch.distributed as dist
from torch.testing._internal.distributed import fake_pg  # noqa: F401  registers the backend

CALLS, TURNS = 300, 25


def times_of_small_calls() -> dict[str, float]:
    """Returns the seconds of a small all_reduce in the quickest of many short runs, by backend.

    They are processor time, which does not run while another process has the core.
    """
    groups = {"fastgpu": dist.group.WORLD, "fake": dist.new_group(backend="fake")}
    tensor = torch.zeros(2)
    least = dict.fromkeys(groups, 1e9)
    for _ in range(TURNS):
        for backend, group in groups.items():
            start = time.thread_time()
            for _ in range(CALLS):
                dist.all_reduce(tensor, group=group)
            least[backend] = min(least[backend], (time.thread_time() - start) / CALLS)
    return least
