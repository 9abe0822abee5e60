"""Trains with PyTorch-Ignite on CPUs.

    FASTGPU_REPLACE_GLOO=1 torchrun --nproc-per-node 2 ignite_loop.py

`auto_model` wraps the model in DistributedDataParallel only for known backends. With another
backend it returns the unwrapped model: each process trains on its own, and nothing says so.
"""

import ignite.distributed as idist
import torch
import torch.distributed as dist
from ignite.engine import Engine
from torch import Tensor, nn


def train(rank: int) -> None:
    """Learns y = sin(x); every rank draws its own batches."""
    torch.manual_seed(0)
    model = idist.auto_model(nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1)))
    optimizer = idist.auto_optim(torch.optim.Adam(model.parameters(), lr=3e-3))
    generator = torch.Generator().manual_seed(1 + rank)

    def step(_: Engine, __: int) -> Tensor:
        x = torch.rand(32, 1, generator=generator) * 6 - 3
        loss = nn.functional.mse_loss(model(x), x.sin())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    state = Engine(step).run(range(80), max_epochs=1)
    mean = idist.all_reduce(state.output) / idist.get_world_size()
    if rank == 0:
        print(f"loss {mean.item():.9g} on {dist.get_backend_config()}")


with idist.Parallel(backend="gloo") as parallel:
    parallel.run(train)
