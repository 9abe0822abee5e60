"""Trains with DeepSpeed's ZeRO stage 1 on CPUs.

    DS_ACCELERATOR=cpu torchrun --nproc-per-node 2 deepspeed_cpu.py fastgpu

Without a backend DeepSpeed takes gloo; `FASTGPU_REPLACE_GLOO=1` makes that fastgpu.
"""

import sys

import deepspeed
import torch
import torch.distributed as dist
from torch import nn


def main(backend: str | None = None) -> None:
    """Learns y = sin(x); every rank draws its own batches."""
    deepspeed.init_distributed(backend)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
        config={
            "train_micro_batch_size_per_gpu": 32,
            "zero_optimization": {"stage": 1},
            "zero_allow_untested_optimizer": True,
        },
    )
    generator = torch.Generator().manual_seed(1 + dist.get_rank())
    for _ in range(80):
        x = torch.rand(32, 1, generator=generator) * 6 - 3
        loss = nn.functional.mse_loss(engine(x), x.sin())
        engine.backward(loss)
        engine.step()
    mean = loss.detach()
    dist.all_reduce(mean)
    if dist.get_rank() == 0:
        print(f"loss {mean.item() / 2:.9g} on {dist.get_backend_config()}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
