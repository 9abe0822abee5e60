"""Checks of stochastic rounding and of residuals of 8 bits. Run by test_ddp.py on every rank."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.ddp_models import WIDTH, gradients, inputs, loss_of, net, same_everywhere
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn import parallel

from fastgpu_comm import DistributedDataParallel, OuterOptimizer, codecs, fsdp, hooks

Step = Callable[[], torch.Tensor]
Steps = tuple[Step, Callable[[], Any], Callable[[Any], None]]  # and what saves and loads a state


def _row(width: int, rank: int) -> torch.Tensor:
    return torch.linspace(-1, 1, width) + 0.01 * rank


def _linear(width: int) -> nn.Linear:
    return nn.Linear(width, width, bias=False)


def _by_ddp(codec: codecs.Codec) -> Steps:
    model = DistributedDataParallel(_linear(WIDTH), codec=codec)
    return _backward_of(model), model.reducer_state_dict, model.load_reducer_state_dict


def _by_hook(codec: codecs.Codec) -> Steps:
    model = parallel.DistributedDataParallel(_linear(WIDTH))
    state = hooks.CodecState(model, codec)
    model.register_comm_hook(state, hooks.codec_hook)
    return _backward_of(model), state.state_dict, state.load_state_dict


def _by_fsdp(codec: codecs.Codec) -> Steps:
    model: Any = _linear(2 * WIDTH)
    fully_shard(model)
    compressed = fsdp.compress(model, codec)
    return _backward_of(model), compressed.state_dict, compressed.load_state_dict


def _backward_of(model: nn.Module) -> Step:
    rank, _ = me_and_world()

    def step() -> torch.Tensor:
        model.zero_grad()
        (parameter,) = model.parameters()
        model(_row(parameter.shape[1], rank).unsqueeze(0)).sum().backward()
        gradient: Any = parameter.grad
        full: torch.Tensor = getattr(gradient, "full_tensor", gradient.clone)()
        return full

    return step


def _by_outer(codec: codecs.Codec) -> Steps:
    rank, _ = me_and_world()
    weight = nn.Parameter(torch.zeros(WIDTH, WIDTH))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    outer = OuterOptimizer(optimizer, 1, lr=1.0, momentum=0.0, codec=codec)

    def step() -> torch.Tensor:
        weight.grad = _row(WIDTH, rank).expand(WIDTH, WIDTH).clone()
        before = weight.detach().clone()
        outer.step()
        return before - weight.detach()

    def load(state: Any) -> None:
        outer.load_state_dict(state)
        with torch.no_grad():
            weight.copy_(state["start"].view_as(weight))

    return step, outer.state_dict, load


STOCHASTIC = {"ddp": _by_ddp, "hook": _by_hook, "outer": _by_outer, "fsdp": _by_fsdp}


def stochastic(way: str, name: str) -> None:
    """All ranks have equal bits. The same seed gives them again, and every step has others."""
    _, world = me_and_world()
    steps = 400

    def train(seed: int, number: int, resume: Any = None) -> tuple[list[torch.Tensor], Any]:
        codec = codecs.Codec(name, feedback=False, rounding="stochastic", seed=seed)
        step, save, load = STOCHASTIC[way](codec)
        if resume is not None:
            load(resume)
        return [step() for _ in range(number)], save()

    results, _ = train(1, steps)
    digests: list[Any] = [None] * world
    bits = torch.stack(results).numpy().tobytes()
    dist.all_gather_object(digests, hashlib.sha256(bits).digest())
    assert len(set(digests)) == 1
    first, state = train(1, 3)
    resumed, _ = train(1, 2, state)
    assert all(map(torch.equal, [*first, *resumed], results))
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[0], train(2, 1)[0][0])
    width = results[0].shape[1]
    exact = torch.stack([_row(width, r) for r in range(world)]).mean(0)
    # A contribution is at most 1.02 / world, and their sum 1.02. A rounding has at most half a step
    # as its standard deviation, and the world - 1 contributions and the sum are independent. FSDP
    # does not round sums.
    step = 1.02 / (127 if name == "int8" else 7) * (1 + 2**-7)
    deviation = 0.5 * step * ((world - 1) / world**2 + (way != "fsdp")) ** 0.5
    error = (torch.stack(results).mean(0) - exact).abs().max()
    assert error < 6 * deviation / steps**0.5 + 2 * step * 2**-15
    # The rows of the gradient are equal, so ranks or elements with the same bits would show.
    spread = (torch.stack(results) - exact).mean(1).std()
    assert spread < 2 * deviation / width**0.5


def new_bits_in_eval_mode() -> None:
    """Gradients of a model in eval mode are reduced, too, and each step rounds anew."""
    codec = codecs.Codec("int4", feedback=False, rounding="stochastic")
    model = DistributedDataParallel(nn.Linear(96, 96, bias=False), codec=codec).eval()
    results = []
    for _ in range(2):
        model.zero_grad()
        model(torch.linspace(-1, 1, 96).unsqueeze(0)).sum().backward()
        results += gradients(model)
    assert not torch.equal(*results)


def another_default_dtype() -> None:
    """float32 gradients are encoded whatever torch's default dtype is."""
    rank, _ = me_and_world()
    models: list[Any] = [DistributedDataParallel(net(), codec="int4")]
    models += [parallel.DistributedDataParallel(net()) for _ in range(2)]
    models[1].register_comm_hook(hooks.CodecState(models[1], "int8"), hooks.codec_hook)
    models[2].register_comm_hook(hooks.PowerSgdState(models[2], start_step=1), hooks.power_sgd_hook)
    alone = net()
    inner = torch.optim.SGD(alone.parameters(), lr=0.1)
    torch.set_default_dtype(torch.bfloat16)
    try:
        for number in range(3):
            for model in models:
                model.zero_grad()
                loss_of(model, inputs(number, rank).float()).backward()
                same_everywhere(gradients(model))
        models[0].load_reducer_state_dict(models[0].reducer_state_dict())
        outer = OuterOptimizer(inner, every=1, codec="int8")
        loss_of(alone, inputs(0, rank).float()).backward()
        outer.step()
        same_everywhere(list(alone.parameters()))
    finally:
        torch.set_default_dtype(torch.float32)


def resumed_residuals_of_8_bits() -> None:
    """A resumed run has the bits of one that never stopped, also where blocks span parameters."""
    rank, _ = me_and_world()
    codec = codecs.Codec("int4", feedback=True, residual_bits=8)

    def model() -> DistributedDataParallel:
        torch.manual_seed(0)
        layers = nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 100), nn.Linear(100, 64)
        return DistributedDataParallel(nn.Sequential(*layers), codec=codec)

    def step(model: DistributedDataParallel, number: int) -> list[torch.Tensor]:
        model.zero_grad()
        generator = torch.Generator().manual_seed(10 * number + rank)
        model(torch.randn(8, 64, generator=generator)).square().mean().backward()
        return gradients(model)

    first = model()
    for number in range(3):
        step(first, number)
    second = model()
    second.load_reducer_state_dict(first.reducer_state_dict())
    for number in range(3, 5):
        assert all(map(torch.equal, step(first, number), step(second, number)))


def residual_bytes() -> dict[int, int]:
    """Returns the memory of the residual of a parameter of 96 x 96, by its bits per element."""
    sizes = {}
    for bits in (32, 8):
        codec = codecs.Codec("int4", feedback=True, residual_bits=bits)
        model = DistributedDataParallel(nn.Linear(96, 96), codec=codec)
        model(torch.ones(1, 96)).sum().backward()
        sizes[bits] = sum(bucket["residual_bytes"] for bucket in model.stats())
    return sizes
