"""Checks of fastgpu_comm.OuterOptimizer. Run by test_outer.py on every rank."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import all_reduce_bytes, me_and_world
from tests.process.ddp_models import inputs, loss_of, net, same_everywhere
from torch import nn

import fastgpu_comm
from fastgpu_comm import OuterOptimizer, codecs

EVERY = 3


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-2)


def train(model: nn.Module, optimizer: Any, steps: range, rank: int) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, inputs(step, rank)).backward()
        optimizer.step()


def reference(world: int, rounds: int) -> list[torch.Tensor]:
    """Returns the parameters after the same training of all ranks, one after the other."""
    common = net()
    outer = torch.optim.SGD(common.parameters(), lr=0.7, momentum=0.9, nesterov=True)
    models = [net() for _ in range(world)]
    optimizers = [adam(model) for model in models]
    for number in range(rounds):
        for rank, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            model.load_state_dict(common.state_dict())
            train(model, optimizer, range(number * EVERY, (number + 1) * EVERY), rank)
        for index, parameter in enumerate(common.parameters()):
            copies = torch.stack([list(model.parameters())[index].detach() for model in models])
            parameter.grad = parameter.detach() - copies.mean(0)
        outer.step()
    return [parameter.detach() for parameter in common.parameters()]


def equals_reference(codec: str | None) -> None:
    """Outer steps are those of the paper; encoded ones are close, and the same on all ranks."""
    rank, world = me_and_world()
    model = net(seed=rank)  # rank 0 has the parameters of the reference
    outer = OuterOptimizer(adam(model), EVERY, codec=codec)
    sent = []
    for number in range(4):
        before = _sent()
        train(model, outer, range(number * EVERY, (number + 1) * EVERY), rank)
        sent.append(_sent() - before)
        same_everywhere(list(model.parameters()))
    expected = torch.cat([each.reshape(-1) for each in reference(world, 4)])
    found = torch.cat([each.detach().reshape(-1) for each in model.parameters()])
    if codec is None:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    else:
        assert not torch.equal(found, expected)
        initial = torch.cat([each.detach().reshape(-1) for each in net().parameters()])
        assert float((found - expected).norm()) < 0.2 * float((expected - initial).norm())
    if dist.get_backend() == "fastgpu":
        if codec is None:  # by the algorithm that this group chose
            expected_bytes = all_reduce_bytes(expected.numel())
        else:
            bits = {"bf16": 16, "int4": 4.5}[codec]
            expected_bytes = 2 * (world - 1) / world * expected.numel() * bits / 8
        assert sent == [pytest.approx(expected_bytes, rel=0.02)] * len(sent)


def _sent() -> float:
    return fastgpu_comm.stats()["bytes_sent"] if dist.get_backend() == "fastgpu" else 0.0


def feedback_matters() -> None:
    """With feedback the sum of the differences is exact but for one rounding; else it drifts."""
    rank, world = me_and_world()
    rounds = 20
    errors = {}
    for feedback in (True, False):
        weight = nn.Parameter(torch.zeros(64, 96))
        outer = OuterOptimizer(
            torch.optim.SGD([weight], lr=1.0),
            1,
            lr=1.0,
            momentum=0.0,
            codec=codecs.Codec("int4", feedback),
        )
        # Each block has an element so large that int4 rounds the rest to zero.
        row = torch.linspace(-0.06, 0.06, 96) + (torch.arange(96) % 32 == 0)
        for _ in range(rounds):
            weight.grad = (row * (1 + rank)).expand(64, 96).clone()
            outer.step()
        exact = row * (-rounds * (1 + (world - 1) / 2))
        errors[feedback] = float((weight.detach() - exact).abs().max())
    assert errors[True] < 0.5
    assert errors[False] > 2 * errors[True]


def state(codec: str | None) -> None:
    """A run that continues from a checkpoint between two outer steps has the same bits."""
    rank, _ = me_and_world()
    model = net()
    outer = OuterOptimizer(adam(model), EVERY, codec=codec)
    train(model, outer, range(EVERY + 1), rank)
    file = io.BytesIO()
    torch.save((model.state_dict(), outer.state_dict()), file)
    file.seek(0)
    resumed = net(seed=5)
    other = OuterOptimizer(adam(resumed), EVERY, codec=codec)
    saved = torch.load(file)
    resumed.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    for each, optimizer in ((model, outer), (resumed, other)):
        train(each, optimizer, range(EVERY + 1, 3 * EVERY), rank)
    assert all(map(torch.equal, resumed.parameters(), model.parameters()))
    same_everywhere(list(model.parameters()))
    small = OuterOptimizer(adam(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="the state has 6 parameters, and here there are 2"):
        small.load_state_dict(outer.state_dict())


def as_an_optimizer() -> None:
    """A scheduler and a closure work; an early outer step is possible; misuse is refused."""
    rank, _ = me_and_world()
    model = net()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    outer = OuterOptimizer(inner, 100)
    scheduler = torch.optim.lr_scheduler.StepLR(outer, 1, gamma=0.5)

    def closure() -> float:
        outer.zero_grad()
        loss = loss_of(model, inputs(0, rank))
        loss.backward()
        return float(loss.detach())

    assert outer.step(closure) > 0
    scheduler.step()
    assert inner.param_groups[0]["lr"] == 0.05
    with pytest.raises(AssertionError):
        same_everywhere(list(model.parameters()))
    outer.outer_step()
    same_everywhere(list(model.parameters()))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    outer.outer_step()  # nothing to do
    assert all(map(torch.equal, model.parameters(), before))
    with pytest.raises(ValueError, match="before OuterOptimizer"):
        outer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    for options, message in (
        ({"every": 0}, "every is 0"),
        ({"every": 2.5}, "every is 2.5"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"codec": "int7"}, "int7.*int8"),
    ):
        with pytest.raises(ValueError, match=message):
            OuterOptimizer(inner, **options)


def failed_outer_step() -> None:
    """An outer step that fails is not taken for done: the next call makes it."""
    rank, _ = me_and_world()
    model = net()
    outer = OuterOptimizer(adam(model), EVERY)
    train(model, outer, range(EVERY - 1), rank)
    with pytest.MonkeyPatch.context() as patch:

        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("the network is down")

        patch.setattr(dist, "all_reduce", fail)
        with pytest.raises(RuntimeError, match="network is down"):
            outer.outer_step()
    outer.outer_step()
    same_everywhere(list(model.parameters()))


def arguments_that_differ() -> None:
    """Ranks whose arguments differ all raise, and the error names two of them."""
    rank, _ = me_and_world()
    optimizer = torch.optim.SGD(nn.Linear(4, 4).parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match=r"rank 0 .* every=3, .* rank 1 has every=4"):
        OuterOptimizer(optimizer, every=3 if rank == 0 else 4)
    with pytest.raises(RuntimeError, match="codec=None"):
        OuterOptimizer(optimizer, codec="int8" if rank == 0 else None)
    more = torch.optim.SGD(nn.Linear(4, 4 + rank).parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match=r"rank 1 has a parameter of shape \(5, 4\)"):
        OuterOptimizer(more)
    OuterOptimizer(optimizer, every=3)
