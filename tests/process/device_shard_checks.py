"""Checks of DTensors and FSDP2 on GPUs, run by test_devices.py on every rank."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.device_checks import TYPE, net, new_group, start
from tests.process.reference import same
from torch.distributed.device_mesh import DeviceMesh


def sharded_training() -> None:
    """FSDP2 on the GPU ends with the parameters of FSDP2 on the CPU."""
    from torch.distributed.fsdp import fully_shard  # takes 2 s, and others here do without it

    # Not with the overwriting of freed memory: with that, FSDP2 gets NaN on the pretended device
    # even over torch's fake backend, for a reason that is not known.
    start().overwrite_freed(False)
    rank, _ = me_and_world()
    trained = []
    for kind, group in (("cpu", dist.new_group(backend="fastgpu")), (TYPE, new_group())):
        model: Any = net().to(kind)
        mesh = DeviceMesh.from_group(group, kind)
        fully_shard(model[2], mesh=mesh)
        fully_shard(model, mesh=mesh)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        generator = torch.Generator().manual_seed(rank)
        for _ in range(3):
            model(torch.randn(16, 40, generator=generator).to(kind)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        trained.append([each.full_tensor().detach().cpu() for each in model.parameters()])
    for expected, result in zip(*trained, strict=True):
        torch.testing.assert_close(result, expected)


def dtensors() -> None:
    """DTensors on the GPU are resharded and summed as on the CPU."""
    from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor

    start()
    results = []
    for kind, group in (("cpu", dist.new_group(backend="fastgpu")), (TYPE, new_group())):
        mesh = DeviceMesh.from_group(group, kind)
        rows = distribute_tensor(torch.arange(24.0).reshape(6, 4).to(kind), mesh, [Shard(0)])
        product: Any = rows.t() @ rows
        assert product.placements == (Partial(),)
        made = (
            rows.redistribute(mesh, [Shard(1)]),
            product.redistribute(mesh, [Shard(0)]),
            product.redistribute(mesh, [Replicate()]),
        )
        results.append([each.to_local().cpu() for each in made] + [rows.full_tensor().cpu()])
    for expected, result in zip(*results, strict=True):
        same(result, expected)
