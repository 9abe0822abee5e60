"""Trains with torch's DistributedDataParallel over fastgpu.

    torchrun --nproc-per-node 2 examples/ddp.py                 over fastgpu
    torchrun --nproc-per-node 2 examples/ddp.py gloo            over another backend

For two hosts, run this on both of them; HOST is the name of the first:

    torchrun --nnodes 2 --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint HOST:29400 \
        examples/ddp.py
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fastgpu_comm  # noqa: F401  (registers the backend)


def main(backend: str) -> None:
    """Learns y = sin(x); every rank draws its own batches."""
    dist.init_process_group(backend)
    torch.manual_seed(0)
    model = DistributedDataParallel(
        nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(1 + dist.get_rank())
    for step in range(1, 501):
        x = torch.rand(128, 1, generator=generator) * 6 - 3
        loss = nn.functional.mse_loss(model(x), x.sin())
        optimizer.zero_grad()
        loss.backward()  # averages the gradients over the ranks
        optimizer.step()
        if step % 100 == 0:
            mean = loss.detach().clone()
            dist.all_reduce(mean)
            if dist.get_rank() == 0:
                print(f"step {step}  loss {mean / dist.get_world_size():.6f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:] or ["fastgpu"])
