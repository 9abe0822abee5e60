"""Checks of stochastic rounding and of residuals of 8 bits. Run by test_ddp.py on every rank."""

from __future__ import annotations

from typing import Any

import torch
from tests.process.collective_checks import me_and_world
from tests.process.ddp_models import gradients, same_everywhere
from torch import nn

from fastgpu_comm import DistributedDataParallel, codecs


def stochastic(name: str) -> None:
    """All ranks have equal bits. A seed gives the same bits again, each step different ones."""
    rank, world = me_and_world()
    steps = 400
    row = torch.linspace(-1, 1, 96) + 0.01 * rank

    def train(seed: int, number: int, resume: Any = None) -> tuple[list[torch.Tensor], Any]:
        codec = codecs.Codec(name, feedback=False, rounding="stochastic", seed=seed)
        model = DistributedDataParallel(nn.Linear(96, 96, bias=False), codec=codec)
        if resume is not None:
            model.load_reducer_state_dict(resume)
        results = []
        for _ in range(number):
            model.zero_grad()
            model(row.unsqueeze(0)).sum().backward()
            results += gradients(model)
        return results, model.reducer_state_dict()

    results, _ = train(1, steps)
    same_everywhere(results)
    first, state = train(1, 3)
    resumed, _ = train(1, 2, state)
    assert all(map(torch.equal, [*first, *resumed], results))
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[0], train(2, 1)[0][0])
    exact = torch.stack([torch.linspace(-1, 1, 96) + 0.01 * r for r in range(world)]).mean(0)
    # A contribution is at most 1.02 / world, and their sum 1.02. A rounding has at most half a step
    # as its standard deviation, and the world - 1 contributions and the sum are independent.
    step = 1.02 / (127 if name == "int8" else 7) * (1 + 2**-7)
    deviation = 0.5 * step * ((world - 1) / world**2 + 1) ** 0.5
    error = (torch.stack(results).mean(0) - exact).abs().max()
    assert error < 6 * deviation / steps**0.5 + 2 * step * 2**-15
    # The rows of the gradient are equal, so ranks or elements with the same bits would show.
    spread = (torch.stack(results) - exact).mean(1).std()
    assert spread < 2 * deviation / 96**0.5


def residual_bytes() -> dict[int, int]:
    """Returns the memory of the residual of a parameter of 96 x 96, by its bits per element."""
    sizes = {}
    for bits in (32, 8):
        codec = codecs.Codec("int4", feedback=True, residual_bits=bits)
        model = DistributedDataParallel(nn.Linear(96, 96), codec=codec)
        model(torch.ones(1, 96)).sum().backward()
        sizes[bits] = sum(bucket["residual_bytes"] for bucket in model.stats())
    return sizes
