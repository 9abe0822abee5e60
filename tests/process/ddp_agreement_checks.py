"""Checks that ranks which silently diverge get an error. Run by test_ddp.py on every rank."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.ddp_models import gradients, inputs, loss_of, net, same_everywhere
from torch import nn

from fastgpu_comm import DistributedDataParallel


def _scaler(scale: float, **options: Any) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000, **options)


def loss_scales(codec: str | None) -> None:
    """A scale that differs is an error of all ranks at the start of backward, which names it."""
    rank, world = me_and_world()
    model = DistributedDataParallel(net(), codec=codec)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = _scaler(256.0)
    model.follow_scaler(scaler)

    def step(number: int) -> None:
        optimizer.zero_grad()
        scaler.scale(loss_of(model, inputs(number, rank))).backward()
        scaler.step(optimizer)
        scaler.update()

    for number in range(3):
        step(number)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    last = world - 1
    if rank == last:
        scaler.update(128.0)
    with pytest.raises(RuntimeError, match=rf"256\.0 on rank.* 0.*; 128\.0 on rank {last}\."):
        step(3)
    assert all(map(torch.equal, before, model.parameters()))
    assert not gradients(model)  # nothing was reduced
    if rank == last:
        scaler.update(256.0)
    step(4)  # and training goes on
    same_everywhere(list(model.parameters()))
    with model.no_sync():  # scales are of no concern where nothing is reduced
        model(inputs(5, rank))
    model.eval()
    if rank == 0:  # nor here: no other rank takes part
        model(inputs(6, rank))


def checkpoint_after_a_skipped_step() -> None:
    """The saved residuals are those from before the skipped step, and a loaded state stays."""
    rank, world = me_and_world()
    model = DistributedDataParallel(net(), codec="int4")
    scaler = _scaler(256.0)
    model.follow_scaler(scaler)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def step(number: int, factor: float) -> None:
        optimizer.zero_grad()
        (scaler.scale(loss_of(model, inputs(number, rank))) * factor).backward()
        scaler.step(optimizer)
        scaler.update()

    for number in range(3):
        step(number, 1.0)
    before = model.reducer_state_dict()["residuals"]
    assert before
    step(3, float("inf") if rank == world - 1 else 1.0)
    state = model.reducer_state_dict()
    assert state["scale"] == scaler.get_scale() == 128.0
    for name, residual in before.items():
        assert torch.equal(state["residuals"][name], residual / 2), name
    step(4, float("inf"))
    model.load_reducer_state_dict({**state, "residuals": {}})
    with torch.no_grad():
        model(inputs(5, rank))
    assert not any(each.any() for each in model.reducer_state_dict()["residuals"].values())
    wrong = {**state, "bucket_plan": [["no such parameter"]], "step": 99}
    with pytest.raises(ValueError, match="bucket_plan has"):
        model.load_reducer_state_dict(wrong)
    assert model.reducer_state_dict()["step"] < 99


def weights_of_a_refused_step() -> None:
    """They do not count in the step after it; and under no_sync no weight may be missing."""
    rank, world = me_and_world()
    model, clean = (DistributedDataParallel(net(), weighted="sum") for _ in range(2))
    scaler = _scaler(256.0)
    model.follow_scaler(scaler)
    scaler.scale(torch.zeros(1))
    model.set_weight(3)
    if rank == world - 1:
        scaler.update(128.0)
    with pytest.raises(RuntimeError, match="loss scales"):
        loss_of(model, inputs(0, rank)).backward()
    scaler.update(256.0)
    for each in (model, clean):
        each.zero_grad()
        each.set_weight(2)
        loss_of(each, inputs(1, rank)).backward()
    assert all(map(torch.equal, gradients(model), gradients(clean)))
    with clean.no_sync(), pytest.raises(ValueError, match="set_weight"):
        clean(inputs(2, rank))


def loss_scales_without_backward() -> None:
    """The next forward looks at scales that no backward has looked at."""
    rank, _ = me_and_world()

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> Any:
            return lambda: self.linear(x)  # torch finds no tensor in it

    model = DistributedDataParallel(Hidden())
    scaler = _scaler(256.0)
    model.follow_scaler(scaler)
    scaler.scale(torch.zeros(1))
    if rank == 0:
        scaler.update(512.0)
    model(inputs(0, rank))().sum().backward()
    with pytest.raises(RuntimeError, match=r"512\.0 on rank 0; 256\.0 on rank"):
        model(inputs(1, rank))


def loss_scales_of_another_group() -> None:
    """A smaller group does not look at the scales of a rank that is gone."""
    rank, world = me_and_world()
    model = DistributedDataParallel(net(), codec="int8")
    scaler = _scaler(256.0)
    model.follow_scaler(scaler)
    scaler.scale(torch.zeros(1))
    if rank == world - 1:
        scaler.update(512.0)
    model(inputs(0, rank))  # without a backward pass
    smaller: Any = dist.new_group(list(range(world - 1)), backend="fastgpu")
    if rank == world - 1:
        return
    model._update_process_group(smaller)
    scaler.scale(loss_of(model, inputs(1, rank))).backward()
    assert gradients(model)


def loss_scales_with_a_parameter_as_output() -> None:
    """A parameter that forward returns does not collect a check from every step."""
    rank, _ = me_and_world()

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.scale = nn.Linear(8, 8), nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.linear(x) * self.scale, self.scale

    model = DistributedDataParallel(Scaled())
    scaler = _scaler(256.0)
    model.follow_scaler(scaler)
    for step in range(3):
        scaler.scale(model(inputs(step, rank))[0].sum()).backward()
    assert not model.module.scale._backward_hooks
    if rank == 0:
        scaler.update(512.0)
    with pytest.raises(RuntimeError, match="loss scales of the ranks differ"):
        model(inputs(3, rank))[0].sum().backward()


def scalers_that_differ_from_the_start() -> None:
    """follow_scaler compares at once: scales, and whether there is a scaler at all."""
    rank, _ = me_and_world()
    model = DistributedDataParallel(net(), codec="int8")
    with pytest.raises(RuntimeError, match=r"64\.0 on rank 0; 65\.0 on rank 1\."):
        model.follow_scaler(_scaler(64.0 + rank))
    with pytest.raises(RuntimeError, match=r"1\.0 on rank 0; no scale .*disabled.* on rank 1\."):
        model.follow_scaler(_scaler(1.0, enabled=rank == 0))
    model.follow_scaler(_scaler(1.0 + rank, enabled=False))
    loss_of(model, inputs(0, rank)).backward()
    same_everywhere(gradients(model))


def follower_alone() -> None:
    """A rank that follows a scaler alone gets an error, and so do the others; nothing hangs."""
    rank, _ = me_and_world()
    group: Any = dist.new_group(backend="fastgpu")
    model = DistributedDataParallel(net(), process_group=group)

    def act() -> None:
        if rank == 0:
            model.follow_scaler(_scaler(64.0))
        else:
            loss_of(model, inputs(0, rank)).backward()

    with pytest.raises(RuntimeError, match="every rank must make the same calls"):
        act()


def joined_with_scaler() -> None:
    """Under join() a rank without inputs has no scale, and gets the error of the others, too."""
    rank, world = me_and_world()
    model = DistributedDataParallel(net(), codec="int8")
    scaler = _scaler(256.0)
    model.follow_scaler(scaler)
    with model.join():
        for number in range(2 + rank):
            scaler.scale(loss_of(model, inputs(number, rank))).backward()
    same_everywhere(list(model.parameters()))
    with model.join():
        for number in range(1 if rank == 0 else 3):
            if number == 1 and rank > 0:
                scaler.update(128.0)
            scaler.scale(loss_of(model, inputs(number, rank))).backward()
    assert model._loss_scales.scale == 128.0  # also on rank 0, whose residuals had to follow
    scaler.update(256.0)

    def train() -> None:  # rank 0 joins after its first step; then the others differ
        for number in range(1 if rank == 0 else 3):
            if number == 1 and rank == world - 1:
                scaler.update(128.0)
            scaler.scale(loss_of(model, inputs(number, rank))).backward()

    message = rf"256\.0 on rank 1; 128\.0 on rank {world - 1}\."
    with pytest.raises(RuntimeError, match=message), model.join():
        train()


def _flip_a_bit(tensor: torch.Tensor) -> None:
    tensor.view(torch.int32).view(-1)[-1] ^= 1


def reduced_gradients(codec: str | None) -> None:
    """One bit of a gradient on one rank: every rank names bucket, parameter, rank and step."""
    rank, world = me_and_world()
    for views in (False, True):
        model = DistributedDataParallel(
            net(), codec=codec, bucket_cap_mb=0.02, gradient_as_bucket_view=views
        )
        for step in range(3):
            model.zero_grad()
            loss_of(model, inputs(step, rank)).backward()
            model.compare_reduced()
        number = next(i for i, bucket in enumerate(model.bucket_plan()) if "2.weight" in bucket)
        if rank == world - 1:
            with torch.no_grad():
                gradient = model.module[2].weight.grad
                assert gradient is not None
                _flip_a_bit(gradient)
        expected = rf"Gradients of bucket {number} in step 3: 2\.weight, on rank {world - 1}\.$"
        with pytest.raises(RuntimeError, match=expected):
            model.compare_reduced()
        if rank == 0:
            model.module[0].bias.grad = None
        with pytest.raises(RuntimeError, match=r"0\.bias, on rank"):
            model.compare_reduced()


def gradients_of_all_kinds() -> None:
    """Sparse gradients, other dtypes, and parameters that no rank uses."""
    rank, _ = me_and_world()
    module = nn.Sequential(nn.Embedding(50, 8, sparse=True), nn.Linear(8, 8).double())
    module[0].to(torch.float64)
    module.register_parameter("unused", nn.Parameter(torch.zeros(3)))
    model = DistributedDataParallel(module, find_unused_parameters=True)
    model(torch.tensor([rank, 7])).sum().backward()
    model.compare_reduced()
    weight = dict(module.named_parameters())["0.weight"]
    if rank == 1:
        assert weight.grad is not None
        weight.grad = weight.grad * 2
    with pytest.raises(RuntimeError, match=r"0\.weight, on rank 1\.$"):
        model.compare_reduced()


def parameters() -> None:
    """One bit of a parameter on one rank, also of a frozen one, and over any process group."""
    rank, world = me_and_world()
    module = net()
    module[0].weight.requires_grad_(False)
    model = DistributedDataParallel(module)
    model.compare_parameters()
    same = copy.deepcopy(module)
    for name in ("0.weight", "4.bias"):
        with torch.no_grad():
            if rank == world - 1:
                _flip_a_bit(dict(module.named_parameters())[name])
        with pytest.raises(
            RuntimeError, match=rf"Parameters after step 0: {name}, on rank {world - 1}\.$"
        ):
            model.compare_parameters()
        module.load_state_dict(same.state_dict())
        model.compare_parameters()
