"""Trains with compressed gradients, and saves and loads the residuals of each rank.

    torchrun --nproc-per-node 2 examples/ddp_codec.py             int8
    torchrun --nproc-per-node 2 examples/ddp_codec.py auto        what is fastest on this network

It is examples/ddp.py with a larger model and the DistributedDataParallel of this package.
"""

from __future__ import annotations

import sys
import tempfile

import torch
import torch.distributed as dist
from torch import nn

from fastgpu_comm import DistributedDataParallel


def train(codec: str) -> None:
    """Learns y = sin(x); every rank draws its own batches."""
    dist.init_process_group("fastgpu")
    torch.manual_seed(0)
    layers = [nn.Linear(1, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 1)]
    model = DistributedDataParallel(nn.Sequential(*layers), codec=codec)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(1 + dist.get_rank())
    for step in range(1, 501):
        x = torch.rand(128, 1, generator=generator) * 6 - 3
        loss = nn.functional.mse_loss(model(x), x.sin())
        optimizer.zero_grad()
        loss.backward()  # encodes the gradients of the large matrix, and averages all of them
        optimizer.step()
        if step == 250:  # each rank saves and loads its own residuals, beside model and optimizer
            with tempfile.TemporaryFile() as file:
                torch.save(model.reducer_state_dict(), file)
                file.seek(0)
                model.load_reducer_state_dict(torch.load(file))
        if step % 100 == 0:
            mean = loss.detach().clone()
            dist.all_reduce(mean, op=dist.ReduceOp.AVG)
            if dist.get_rank() == 0:
                print(f"step {step}  loss {mean:.6f}", flush=True)
    if dist.get_rank() == 0:
        buckets = model.stats()  # of the last backward pass
        sizes = {key: sum(each[key] for each in buckets) for key in ("bytes", "encoded_bytes")}
        print(f"a step's gradients: {sizes['bytes']} bytes, {sizes['encoded_bytes']} encoded")
    dist.destroy_process_group()


if __name__ == "__main__":
    train(*sys.argv[1:] or ["int8"])
