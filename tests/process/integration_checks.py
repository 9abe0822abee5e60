"""Checks of what torch builds on a backend. Run by test_integrations.py.

Each is held against one process that has all the data, or against gloo.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.group_checks import default_group
from tests.process.reference import same
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

STEPS = 3
BATCH = 8  # of all ranks together


def small_model(seed: int = 0) -> nn.Sequential:
    """Returns the same model on every rank; small enough for tests, of more than one bucket."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(10, 40), nn.ReLU(), nn.Linear(40, 40), nn.Linear(40, 4))


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns a step's whole batch."""
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(BATCH, 10, generator=generator)
    return inputs, torch.randn(BATCH, 4, generator=generator)


def part(whole: torch.Tensor) -> torch.Tensor:
    """Returns this rank's part of a batch."""
    rank, world = me_and_world()
    return whole.chunk(world)[rank]


def train(model: nn.Module, mine: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Takes a few steps on what `mine` leaves of each batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(STEPS):
        inputs, targets = batch(step)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(mine(inputs)), mine(targets)).backward()
        optimizer.step()


def trained_alone() -> nn.Sequential:
    """Returns the model after one process has trained it on everything."""
    model = small_model()
    train(model, lambda whole: whole)
    return model


def same_parameters(model: nn.Module, reference: nn.Module) -> None:
    """Raises unless both models are equal, to rounding."""
    pairs = zip(model.parameters(), reference.parameters(), strict=True)
    for parameter, expected in pairs:
        full = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
        torch.testing.assert_close(full.detach(), expected.detach(), rtol=1e-4, atol=1e-5)


def gloo_group() -> dist.ProcessGroup:
    """Returns a gloo group of all ranks, for reference."""
    group = dist.new_group(list(range(dist.get_world_size())), backend="gloo")
    assert isinstance(group, dist.ProcessGroup)
    return group


def ddp() -> None:
    """Like gloo and like one process; also with buckets of one parameter."""
    cases: list[dict[str, Any]] = [{}, {"bucket_cap_mb": 0.0001, "gradient_as_bucket_view": True}]
    for options in cases:
        ours = DistributedDataParallel(small_model(), **options)
        theirs = DistributedDataParallel(small_model(), process_group=gloo_group(), **options)
        train(ours, part)
        train(theirs, part)
        same_parameters(ours, theirs)
        same_parameters(ours, trained_alone())


def ddp_hooks() -> None:
    """The stock hooks: each like the same on gloo, which for PowerSGD means one bucket."""
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

    def power_state(group: dist.ProcessGroup) -> object:
        return powerSGD_hook.PowerSGDState(
            group, matrix_approximation_rank=2, start_powerSGD_iter=2, min_compression_rate=0.5
        )

    def plain_state(group: dist.ProcessGroup) -> object:
        return group

    cases: list[tuple[Callable[[dist.ProcessGroup], object], Any]] = [
        (plain_state, default_hooks.allreduce_hook),
        (plain_state, default_hooks.fp16_compress_hook),
        (power_state, powerSGD_hook.powerSGD_hook),
    ]
    for make_state, hook in cases:
        models = []
        for group in (default_group(), gloo_group()):
            model = DistributedDataParallel(small_model(), process_group=group)
            model.register_comm_hook(make_state(group), hook)
            train(model, part)
            models.append(model)
        same_parameters(*models)


class Embedder(nn.Module):
    """Has sparse gradients."""

    def __init__(self) -> None:
        """Makes the same parameters on every rank."""
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(12, 3, sparse=True)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns the rows."""
        found: torch.Tensor = self.table(rows)
        return found


def ddp_sparse() -> None:
    """Sparse gradients through DDP are the mean of the ranks' own."""
    rank, world = me_and_world()
    model = DistributedDataParallel(Embedder())
    model(torch.tensor([rank, rank + 1])).sum().backward()
    gradient = model.module.table.weight.grad
    assert gradient is not None
    expected = torch.zeros(12, 3)
    for peer in range(world):
        expected[peer] += 1 / world
        expected[peer + 1] += 1 / world
    same(gradient.to_dense(), expected)


def fsdp2() -> None:
    """fully_shard on CPU: like one process."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    _, world = me_and_world()
    model = small_model()
    mesh = init_device_mesh("cpu", (world,))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    train(model, part)
    same_parameters(model, trained_alone())

    short = small_model()
    fully_shard(short, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    short(part(batch(0)[0])).sum().backward()
    for parameter in short.parameters():
        assert parameter.grad is not None


def tensor_parallel() -> None:
    """Column-wise then row-wise: the outputs and the gradients of the whole model."""
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    _, world = me_and_world()
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Linear(8, 12 * world), nn.ReLU(), nn.Linear(12 * world, 8))
    mesh = init_device_mesh("cpu", (world,))
    split = parallelize_module(
        copy.deepcopy(whole), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()}
    )
    inputs = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    output = split(inputs)
    expected = whole(inputs)
    torch.testing.assert_close(output, expected)
    output.sum().backward()
    expected.sum().backward()
    for mine, reference in zip(split.parameters(), whole.parameters(), strict=True):
        assert mine.grad is not None
        assert reference.grad is not None
        full = mine.grad.full_tensor() if hasattr(mine.grad, "full_tensor") else mine.grad
        torch.testing.assert_close(full, reference.grad)


def dtensor_redistribute() -> None:
    """Every change between sharded, replicated and partial."""
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    _, world = me_and_world()
    mesh = init_device_mesh("cpu", (world,))
    whole = torch.arange(24 * world, dtype=torch.float32).view(4 * world, 6)
    sharded = distribute_tensor(whole, mesh, [Shard(0)])
    same(sharded.redistribute(mesh, [Shard(1)]).full_tensor(), whole)
    same(sharded.redistribute(mesh, [Replicate()]).to_local(), whole)
    partial = DTensor.from_local(whole, mesh, [Partial()])
    same(partial.redistribute(mesh, [Shard(0)]).full_tensor(), whole * world)
    same(partial.redistribute(mesh, [Replicate()]).to_local(), whole * world)


def pipeline() -> None:
    """Two stages, four micro-batches: the losses and gradients of the whole model."""
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    rank, world = me_and_world()
    whole = small_model()
    stages = [whole[:2], whole[2:]]
    mine = copy.deepcopy(stages[rank])
    stage = PipelineStage(mine, rank, world, torch.device("cpu"))
    schedule = Schedule1F1B(stage, n_microbatches=4, loss_fn=nn.functional.mse_loss)
    inputs, targets = batch(0)
    if rank == 0:
        schedule.step(inputs)
    else:
        losses: list[torch.Tensor] = []
        schedule.step(target=targets, losses=losses)
        expected_loss = nn.functional.mse_loss(whole(inputs), targets)
        torch.testing.assert_close(torch.stack(losses).mean(), expected_loss)
    nn.functional.mse_loss(whole(inputs), targets).backward()
    for parameter, expected in zip(mine.parameters(), stages[rank].parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad)


def device_mesh() -> None:
    """2 x 2: all-reduces along each dimension."""
    rank, _ = me_and_world()
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "columns"))
    for name, expected in (("rows", 2 * (rank % 2) + 2), ("columns", 4 * (rank // 2) + 1)):
        tensor = torch.tensor([rank])
        dist.all_reduce(tensor, group=mesh.get_group(name))
        assert int(tensor) == expected, (name, rank, tensor)


def functional_collectives() -> None:
    """Eager and compiled with aot_eager, of one value."""
    from torch.distributed import _functional_collectives as functional

    rank, world = me_and_world()
    group = default_group()

    def step(tensor: torch.Tensor) -> torch.Tensor:
        total = functional.all_reduce(tensor * 2, "sum", group)
        gathered = functional.all_gather_tensor(total + 1, 0, group)
        scattered = functional.reduce_scatter_tensor(gathered, "avg", 0, group)
        swapped = functional.all_to_all_single(gathered, None, None, group)
        result: torch.Tensor = scattered + swapped.sum()
        return result

    tensor = torch.arange(6, dtype=torch.float32) + rank
    sums = 2 * (torch.arange(6) * world + world * (world - 1) / 2) + 1
    expected = sums + world * sums.sum()
    same(step(tensor).clone(), expected)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    same(compiled(tensor).clone(), expected)


def checkpoint(folder: str) -> None:
    """Saved by all ranks, loaded again sharded and whole."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.tensor import Shard, distribute_tensor

    _, world = me_and_world()
    mesh = init_device_mesh("cpu", (world,))
    whole = torch.arange(20.0 * world).view(5 * world, 4)
    state = {"sharded": distribute_tensor(whole, mesh, [Shard(0)]), "plain": torch.ones(3)}
    dcp.save(state, checkpoint_id=folder)
    loaded = {
        "sharded": distribute_tensor(torch.zeros_like(whole), mesh, [Shard(0)]),
        "plain": torch.zeros(3),
    }
    dcp.load(loaded, checkpoint_id=folder)
    sharded: Any = loaded["sharded"]
    same(sharded.full_tensor(), whole)
    same(loaded["plain"], torch.ones(3))


def debug_detail() -> None:
    """TORCH_DISTRIBUTED_DEBUG=DETAIL wraps the backend; all goes on, our own names too."""
    import fastgpu_comm

    _, world = me_and_world()
    assert dist.get_debug_level() == dist.DebugLevel.DETAIL
    tensor = torch.ones(5)
    dist.all_reduce(tensor)
    same(tensor, torch.full((5,), float(world)))
    model = DistributedDataParallel(small_model())
    train(model, part)
    same_parameters(model, trained_alone())
    assert fastgpu_comm.stats()["operations"] > 0
    fastgpu_comm.monitored_barrier()
