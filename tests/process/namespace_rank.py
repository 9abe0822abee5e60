"""One rank on a host of its own: joins as under torchrun, and runs the checks of collectives.

namespace_rank.py [few]    few: all_reduce and broadcast alone, for another kind of address
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist
from tests.process import collective_checks as checks

import fastgpu_comm  # noqa: F401  registers the backend


def main() -> None:
    """Runs collectives on a few dtypes, then a payload that takes many packets."""
    few = sys.argv[1:] == ["few"]
    torch.set_num_threads(1)
    dist.init_process_group("fastgpu", timeout=timedelta(seconds=90))
    every = (
        checks.all_reduce,
        checks.broadcast,
        checks.reduce,
        checks.all_gather,
        checks.reduce_scatter,
        checks.gather_and_scatter,
        checks.all_to_all,
    )
    for dtype in (torch.float32,) if few else (torch.float32, torch.bfloat16):
        for check in every[:2] if few else every:
            check(dtype)
    large = torch.full((1 << 20,), float(dist.get_rank()))
    dist.all_reduce(large)
    world = dist.get_world_size()
    assert (large == world * (world - 1) / 2).all()
    print(f"rank {dist.get_rank()} of {world} is done")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
