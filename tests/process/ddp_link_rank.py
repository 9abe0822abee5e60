"""One rank on a host of its own: trains with codec="auto" until it has chosen, and prints that."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist
from torch import nn

from fastgpu_comm import DistributedDataParallel

MOST_PASSES = 100


def main() -> None:
    """Trains a model of 2 MB; rank 0 prints its choice as JSON."""
    torch.set_num_threads(1)
    dist.init_process_group("fastgpu", timeout=timedelta(seconds=90))
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(512, 1024), codec="auto")
    for _ in range(MOST_PASSES):
        if model.codec_choice()["settled"]:
            break
        model.zero_grad()
        model(torch.randn(4, 512)).square().mean().backward()
    if dist.get_rank() == 0:
        print("@@" + json.dumps(model.codec_choice()))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
