"""Checks of the codecs that need error feedback. Run by test_ddp.py on every rank."""

from __future__ import annotations

import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.ddp_models import (
    COARSE_CODECS,
    gradients,
    inputs,
    loss_of,
    net,
    same_everywhere,
)
from torch import nn
from torch.nn.parallel import DistributedDataParallel as TorchDDP

from fastgpu_comm import DistributedDataParallel
from fastgpu_comm.codecs import Codec


def losses() -> dict[str, float]:
    """Returns the loss of a small model after training with SGD and momentum, by codec."""
    rank, _ = me_and_world()
    found = {}
    for codec in (None, *COARSE_CODECS):
        model = DistributedDataParallel(net(), codec=codec)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        last = []
        for step in range(400):
            loss = loss_of(model, inputs(step, rank))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            last.append(loss.detach())
        mean = torch.stack(last[-20:]).mean()
        dist.all_reduce(mean, dist.ReduceOp.AVG)
        found[str(codec)] = float(mean)
    return found


def sums(codec: str) -> None:
    """All ranks get the same bits; all gradients so far were delivered or are in the residuals."""
    rank, _ = me_and_world()
    model, exact = DistributedDataParallel(net(), codec=codec), TorchDDP(net())
    owed = torch.zeros(96, 96)
    for step in range(5):
        for each in (model, exact):
            each.zero_grad()
            loss_of(each, inputs(step, rank)).backward()
        same_everywhere(gradients(model))
        mine, other = (
            dict(each.module.named_parameters())["2.weight"].grad for each in (model, exact)
        )
        assert not torch.equal(mine, other)
        owed += other - mine
    kept = model.reducer_state_dict()["residuals"]["2.weight"]
    dist.all_reduce(kept)
    torch.testing.assert_close(kept, owed, rtol=1e-3, atol=1e-6)


def not_finite(codec: str | Codec) -> None:
    """Without a scaler: a NaN of one rank reaches all ranks, and stays out of the residuals."""
    rank, world = me_and_world()
    model = DistributedDataParallel(nn.Linear(96, 96, bias=False), codec=codec)
    x = torch.rand(1, 96)
    x[0, 5] = float("nan") if rank == world - 1 else 1.0
    model(x).sum().backward()
    gradient = model.module.weight.grad
    assert gradient is not None
    assert bool(gradient.isnan().any() if codec == "topk" else gradient[:, 5].isnan().all())
    kept = model.reducer_state_dict()["residuals"]["weight"]
    assert bool(kept.isfinite().all())
    same_everywhere([gradient])
