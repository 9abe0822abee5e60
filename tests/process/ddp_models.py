"""A small model and its data, for the checks of DistributedDataParallel."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

WIDTH = 96
CODECS = ("fp16", "bf16", "int8", "int4")
COARSE_CODECS = ("topk", "1bit")  # which need error feedback


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(8, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 8)
    )


def inputs(step: int, rank: int, rows: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return torch.randn(rows, 8, generator=generator)


def loss_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.mse_loss(model(x), x.sin().flip(1))


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def same_everywhere(tensors: list[torch.Tensor]) -> None:
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    copies = [torch.empty_like(flat) for _ in range(dist.get_world_size())]
    dist.all_gather(copies, flat)
    for copy_ in copies:
        assert torch.equal(copy_.view(torch.int32), flat.view(torch.int32))
