"""What ranks run for tests/process/test_small_call.py."""

from __future__ import annotations

import time

import torch
import torch.distributed as dist
from torch.testing._internal.distributed import fake_pg

CALLS, TURNS = 300, 25


def times_of_small_calls() -> dict[str, float]:
    """Returns the seconds of a small all_reduce in the quickest of many short runs, by backend."""
    assert fake_pg.FakeProcessGroup is not None  # the import registers the backend
    groups = {"fastgpu": dist.group.WORLD, "fake": dist.new_group(backend="fake")}
    tensor = torch.zeros(2)
    least = dict.fromkeys(groups, 1e9)
    for _ in range(TURNS):
        for backend, group in groups.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                dist.all_reduce(tensor, group=group)
            least[backend] = min(least[backend], (time.perf_counter() - start) / CALLS)
    return least
