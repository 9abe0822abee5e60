"""Trains under torchrun, which starts all ranks again when one fails; they resume.

    torchrun --nproc-per-node 2 --max-restarts 1 elastic.py CHECKPOINT fastgpu

Rank 1 ends in the middle of its first run, so that there is something to see.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

STEPS, SAVE_EVERY, FAILS_AT = 80, 20, 50


def main(checkpoint: str, backend: str | None = None) -> None:
    """Learns y = sin(x); every rank draws its own batches."""
    dist.init_process_group(backend)
    path, rank = Path(checkpoint), dist.get_rank()
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1)))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = 0
    if path.exists():
        state = torch.load(path)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["steps"]
    for step in range(first, STEPS):
        if (rank, step, os.environ["TORCHELASTIC_RESTART_COUNT"]) == (1, FAILS_AT, "0"):
            sys.exit(3)
        generator = torch.Generator().manual_seed(step * dist.get_world_size() + rank)
        x = torch.rand(32, 1, generator=generator) * 6 - 3
        loss = nn.functional.mse_loss(model(x), x.sin())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if rank == 0 and (step + 1) % SAVE_EVERY == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "steps": step + 1}, path.with_suffix(".new"))
            path.with_suffix(".new").replace(path)
    mean = loss.detach()
    dist.all_reduce(mean)
    if rank == 0:
        print(f"resumed at step {first}")
        print(f"loss {mean.item() / dist.get_world_size():.9g} on {dist.get_backend_config()}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
