"""Checks of what torch builds on a backend. Run by test_integrations.py.

Each is held against one process that has all the data, or against gloo.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from tests.process.collective_checks import me_and_world
from tests.process.group_checks import default_group
from tests.process.reference import same
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

import fastgpu_comm

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


def whole(tensor: torch.Tensor | None) -> torch.Tensor:
    """Returns all of a tensor that the ranks may hold in shards."""
    assert tensor is not None
    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()


def same_parameters(model: nn.Module, reference: nn.Module) -> None:
    """Raises unless both models are equal, to rounding."""
    for mine, expected in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(whole(mine), whole(expected), rtol=1e-4, atol=1e-5)


def same_gradients(
    model: nn.Module, reference: nn.Module, rtol: float = 1e-4, atol: float = 1e-5
) -> None:
    """Raises unless the gradients of both models are equal, to rounding."""
    for mine, expected in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(whole(mine.grad), whole(expected.grad), rtol=rtol, atol=atol)


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


def _plain_state(group: dist.ProcessGroup) -> object:
    return group


def _power_state(group: dist.ProcessGroup) -> object:
    return powerSGD_hook.PowerSGDState(
        group, matrix_approximation_rank=2, start_powerSGD_iter=2, min_compression_rate=0.5
    )


HOOKS: dict[str, tuple[Callable[[dist.ProcessGroup], object], Any]] = {
    "allreduce": (_plain_state, default_hooks.allreduce_hook),
    "fp16": (_plain_state, default_hooks.fp16_compress_hook),
    "powerSGD": (_power_state, powerSGD_hook.powerSGD_hook),
}


def ddp_hook(name: str) -> None:
    """A stock hook gives the same as on gloo (with PowerSGD only if there is one bucket)."""
    make_state, hook = HOOKS[name]
    models = []
    for group in (default_group(), gloo_group()):
        model = DistributedDataParallel(small_model(), process_group=group)
        model.register_comm_hook(make_state(group), hook)
        train(model, part)
        models.append(model)
    same_parameters(*models)
    gradient = models[0].module[2].weight.grad
    if name == "fp16":
        assert torch.equal(gradient, gradient.half().float()), "it did not travel as fp16"
    if name == "powerSGD":
        assert torch.linalg.matrix_rank(gradient, rtol=1e-3) == 2, "it was not compressed"


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


def sharded_model(policy: MixedPrecisionPolicy | None = None) -> nn.Sequential:
    """Returns the model sharded over all ranks, each layer by itself."""
    model = small_model()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (*(layer for layer in model if isinstance(layer, nn.Linear)), model):
        fully_shard(layer, mesh=mesh, mp_policy=policy or MixedPrecisionPolicy())
    return model


def fsdp2() -> None:
    """fully_shard on CPU: like one process."""
    model = sharded_model()
    parameter = next(model.parameters())
    assert isinstance(parameter, DTensor)
    assert len(parameter.to_local()) < len(parameter), "it was not sharded"
    train(model, part)
    same_parameters(model, trained_alone())


def fsdp2_in_mixed_precision() -> None:
    """Gathers and reduce-scatters of bfloat16: like one process that computes in float32."""
    inputs, targets = batch(0)
    model = sharded_model(MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    output = model(part(inputs))
    assert output.dtype == torch.bfloat16
    nn.functional.mse_loss(output, part(targets).bfloat16()).backward()
    alone = small_model()
    nn.functional.mse_loss(alone(inputs), targets).backward()
    same_gradients(model, alone, rtol=0.1, atol=0.02)


def tensor_parallel() -> None:
    """Column-wise then row-wise: the outputs and the gradients of the whole model."""
    _, world = me_and_world()
    torch.manual_seed(0)
    alone = nn.Sequential(nn.Linear(8, 12 * world), nn.ReLU(), nn.Linear(12 * world, 8))
    mesh = init_device_mesh("cpu", (world,))
    split = parallelize_module(
        copy.deepcopy(alone), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()}
    )
    weight = next(split.parameters())
    assert isinstance(weight, DTensor)
    assert len(weight.to_local()) == 12, "it was not sharded"
    inputs = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    output, expected = split(inputs), alone(inputs)
    torch.testing.assert_close(output, expected)
    output.square().sum().backward()
    expected.square().sum().backward()
    same_gradients(split, alone)


def tensor_parallel_in_a_mesh() -> None:
    """Tensor parallel in the columns of a 2 x 2 mesh, FSDP2 in its rows: like one process."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    torch.manual_seed(0)
    alone = nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 4))
    model = parallelize_module(
        copy.deepcopy(alone), mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()}
    )
    fully_shard(model, mesh=mesh["data"])
    weight = next(model.parameters())
    assert isinstance(weight, DTensor)
    assert len(weight.to_local()) == 24 // 4, "it was not sharded twice"
    row = mesh.get_local_rank("data")
    train(model, lambda whole_batch: whole_batch.chunk(2)[row])
    train(alone, lambda whole_batch: whole_batch)
    same_parameters(model, alone)


def dtensor_redistribute() -> None:
    """Every change between sharded, replicated and partial."""
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
    """2 x 2: all-reduces along each dimension, one by one and in flight together."""
    rank, _ = me_and_world()
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "columns"))
    for name, expected in (("rows", 2 * (rank % 2) + 2), ("columns", 4 * (rank // 2) + 1)):
        tensor = torch.tensor([rank])
        dist.all_reduce(tensor, group=mesh.get_group(name))
        assert int(tensor) == expected, (name, rank, tensor)

    along_rows, along_columns = torch.full((1000,), 10**rank), torch.full((7,), 10**rank)
    works = [
        dist.all_reduce(along_rows, group=mesh.get_group("rows"), async_op=True),
        dist.all_reduce(along_columns, group=mesh.get_group("columns"), async_op=True),
    ]
    for work in works:
        assert work is not None
        work.wait()
    same(along_rows, torch.full((1000,), 101 if rank % 2 == 0 else 1010))
    same(along_columns, torch.full((7,), 11 if rank < 2 else 1100))


def functional_collectives(compiled: bool) -> None:
    """As they are, or compiled in one graph by aot_eager, against plain sums."""
    from torch.distributed import _functional_collectives as functional

    rank, world = me_and_world()
    group = default_group()

    def step(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
        total = functional.all_reduce(tensor * 2, "sum", group)
        gathered = functional.all_gather_tensor(tensor + 1, 0, group)
        scattered = functional.reduce_scatter_tensor(tensor, "avg", 0, group)
        swapped = functional.all_to_all_single(tensor, None, None, group)
        return total + 1, gathered * 3, scattered - 1, swapped.neg()

    everyone = [
        torch.randn(world * 3, 5, generator=torch.Generator().manual_seed(peer))
        for peer in range(world)
    ]
    call = torch.compile(step, backend="aot_eager", fullgraph=True) if compiled else step
    results = tuple(result + 0 for result in call(everyone[rank]))  # + 0 waits
    total = torch.stack(everyone).sum(0)
    expected = (
        total * 2 + 1,
        (torch.cat(everyone) + 1) * 3,
        total.chunk(world)[rank] / world - 1,
        -torch.cat([tensor.chunk(world)[rank] for tensor in everyone]),
    )
    torch.testing.assert_close(results, expected)


def checkpoint(folder: str) -> None:
    """A checkpoint of FSDP2's shards is loaded into shards, and into a whole model."""
    saved = sharded_model()
    train(saved, part)
    dcp.save(get_model_state_dict(saved), checkpoint_id=folder)
    for loaded in (sharded_model(), small_model()):
        untrained = whole(next(loaded.parameters())).clone()
        state = get_model_state_dict(loaded)
        dcp.load(state, checkpoint_id=folder)
        set_model_state_dict(loaded, state)
        for mine, expected in zip(loaded.parameters(), saved.parameters(), strict=True):
            same(whole(mine), whole(expected))
        assert not torch.equal(whole(next(loaded.parameters())), untrained)


def sharded_tensor() -> None:
    """ShardedTensor gathers over this backend's device, the CPU."""
    from torch.distributed._shard import sharded_tensor as sharding
    from torch.distributed._shard.sharding_spec import ChunkShardingSpec

    rank, world = me_and_world()
    spec = ChunkShardingSpec(dim=0, placements=[f"rank:{peer}/cpu" for peer in range(world)])
    sharded = sharding.zeros(spec, 2 * world, 3)
    sharded.local_shards()[0].tensor.fill_(rank)
    whole = torch.zeros(2 * world, 3) if rank == 0 else None
    sharded.gather(0, whole)
    if whole is not None:
        assert whole[:, 0].tolist() == [peer for peer in range(world) for _ in range(2)]


def late_to_a_group() -> None:
    """A group's ranks wait for a late one, also in a FileStore, whose own waits fail untyped."""
    rank, world = me_and_world()
    time.sleep(1.5 * rank)  # longer than several of the waits of 0.5 s that csrc/torch makes
    tensor = torch.ones(3)
    dist.all_reduce(tensor, group=dist.new_group())
    same(tensor, torch.full((3,), float(world)))


def debug_detail() -> None:
    """TORCH_DISTRIBUTED_DEBUG=DETAIL wraps the backend; all goes on, our own names too.

    Calls that differ raise on every rank, before they reach the backend.
    """
    rank, world = me_and_world()
    assert dist.get_debug_level() == dist.DebugLevel.DETAIL
    tensor = torch.ones(5)
    dist.all_reduce(tensor)
    same(tensor, torch.full((5,), float(world)))
    model = DistributedDataParallel(small_model())
    train(model, part)
    same_parameters(model, trained_alone())
    assert fastgpu_comm.stats()["operations"] > 0
    fastgpu_comm.monitored_barrier()
    with pytest.raises(RuntimeError, match="mismatch"):
        dist.all_reduce(torch.ones(10 + rank))
    dist.all_reduce(tensor)
    same(tensor, torch.full((5,), float(world * world)))
