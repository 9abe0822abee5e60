"""Checks of compressed collectives in `fully_shard`. Run by test_fsdp.py on every rank."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.process.codec_checks import BYTES_PER_ELEMENT, ROUNDING
from tests.process.collective_checks import me_and_world
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from fastgpu_comm import codecs, fsdp

WIDTH = 192  # a layer's share is at least codecs.LEAST_ELEMENTS on 3 ranks, and no layer divides


def _plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, WIDTH),
        nn.Tanh(),
        nn.Linear(WIDTH, WIDTH + 1),
        nn.Tanh(),
        nn.Linear(WIDTH + 1, 16),
    )


def _net(**options: Any) -> Any:
    model = _plain()
    fully_shard(model[2], **options)
    fully_shard(model, **options)
    return model


def _inputs(step: int, rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return torch.randn(16, 16, generator=generator)


def _loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.mse_loss(model(x).float(), x.sin().flip(1))


def _shards(model: Any) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.to_local().clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def gradients(codec: str) -> None:
    """Gradients differ from uncompressed ones by at most one rounding per other rank."""
    rank, world = me_and_world()
    exact, model, local = _net(), _net(), _plain()
    compressed = fsdp.compress(model, codecs.Codec(codec, feedback=False))
    for each in (exact, model, local):
        _loss(each, _inputs(0, rank)).backward()
    largest = torch.stack([p.grad.abs().max() for p in local.parameters() if p.grad is not None])
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    # The owner's own part is not rounded.
    bound = 1.01 * ROUNDING[codec] * float(largest.max()) * (world - 1) / world + 1e-7
    found = _shards(model)
    rounded = torch.zeros(1)
    for name, expected in _shards(exact).items():
        assert bool(((found[name] - expected).abs() <= bound).all()), name
        rounded += not torch.equal(found[name], expected)
    dist.all_reduce(rounded)
    assert rounded > 0
    assert set(compressed.gradients) == {"", "2"}
    assert not compressed.state_dict()["residuals"]  # no feedback, no residuals


def nothing_is_lost() -> None:
    """The sum of all results and the residuals add up to the sum of the exact gradients."""
    rank, world = me_and_world()
    exact, model = _net(), _net()
    compressed = fsdp.compress(model, "int4")
    steps = 5
    totals: list[dict[str, torch.Tensor]] = [{}, {}]
    for step in range(steps):
        for each, total in zip((exact, model), totals, strict=True):
            each.zero_grad()
            _loss(each, _inputs(step, rank)).backward()
            for name, shard in _shards(each).items():
                total[name] = total.get(name, torch.zeros_like(shard)) + shard
    module = compressed.gradients["2"]
    assert module.residual is not None
    residual = module.residual.clone()
    assert float(residual.abs().max()) > 0
    dist.all_reduce(residual)  # over the senders
    mine = residual.view(world, -1)[rank] / world
    offset = 0
    for name in ("2.weight", "2.bias"):
        rows = -(-model.get_parameter(name).shape[0] // world)  # padded
        columns = model.get_parameter(name).shape[1:].numel()
        part = mine[offset : offset + rows * columns].view(rows, -1)
        offset += part.numel()
        found = totals[1][name]
        part = part[: found.shape[0]].view(found.shape)
        assert not torch.allclose(found, totals[0][name], rtol=0, atol=1e-6)
        torch.testing.assert_close(found + part, totals[0][name], rtol=1e-4, atol=1e-5)


def weights(codec: str) -> None:
    """All ranks compute with the same rounded weights; the sharded ones are as they were."""
    exact, model = _net(), _net()
    fsdp.compress(model, None, codec)
    x = _inputs(0, 0)  # the same on all ranks
    with torch.no_grad():
        found, expected = model(x), exact(x)
    assert not torch.equal(found, expected)
    copies = [torch.empty_like(found) for _ in range(dist.get_world_size())]
    dist.all_gather(copies, found)
    assert all(torch.equal(copy, found) for copy in copies)
    layer, rounded = exact[2], model[2]
    for each in (layer, rounded):
        each.unshard()
    difference = (rounded.weight - layer.weight).abs().max()
    assert 0 < difference <= 1.01 * ROUNDING[codec] * layer.weight.abs().max()
    for each in (layer, rounded):
        each.reshard()
    assert torch.equal(rounded.weight.to_local(), layer.weight.to_local())


def bytes_sent() -> None:
    """Encoded bytes travel, by the counter of the backend too."""
    import fastgpu_comm

    _, world = me_and_world()
    rows = 64 * world
    sent = {}
    for codec in (None, "int8", "int4"):
        model = nn.Linear(128, rows, bias=False)
        fully_shard(model)
        compressed = fsdp.compress(model, codec, codec)
        for _ in range(2):  # the second step is counted
            counters = fastgpu_comm.stats()["bytes_sent"], compressed.bytes_sent
            model(torch.ones(2, 128)).sum().backward()
            sent[codec] = fastgpu_comm.stats()["bytes_sent"] - counters[0]
            counted = compressed.bytes_sent - counters[1]
        if codec is not None:
            share = 64 * 128 * BYTES_PER_ELEMENT[codec]
            # Gathered for the forward pass and again for the backward one; a root keeps them.
            assert counted in (2 * (world - 1) * share, 3 * (world - 1) * share)
            assert sent[codec] == counted
    assert sent["int4"] < sent["int8"] < 0.27 * sent[None]


def losses() -> dict[str, float]:
    """Returns the loss after some training, by variant."""
    rank, _ = me_and_world()
    variants: dict[str, tuple[str | None, str | None, Any]] = {
        "none": (None, None, {}),
        "int8": ("int8", None, {}),
        "int4": ("int4", None, {}),
        "int8, weights int8": ("int8", "int8", {}),
        "bf16 and int8": (
            "int8",
            "int8",
            {
                "mp_policy": MixedPrecisionPolicy(
                    param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16
                )
            },
        ),
    }
    found = {}
    for name, (gradient_codec, weight_codec, options) in variants.items():
        model = _net(**options)
        fsdp.compress(model, gradient_codec, weight_codec)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        last = []
        for step in range(120):
            loss = _loss(model, _inputs(step, rank))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            last.append(loss.detach())
        mean = torch.stack(last[-20:]).mean()
        dist.all_reduce(mean, dist.ReduceOp.AVG)
        found[name] = float(mean)
    return found


def state() -> None:
    """The residuals survive a checkpoint, also a flat one of an earlier version."""
    rank, _ = me_and_world()

    def step(model: Any, number: int) -> dict[str, torch.Tensor]:
        model.zero_grad()
        _loss(model, _inputs(number, rank)).backward()
        return _shards(model)

    model, resumed, older, fresh = (_net() for _ in range(4))
    compressed = fsdp.compress(model, "int4")
    for number in range(2):
        step(model, number)
    others = [fsdp.compress(each, "int4") for each in (resumed, older, fresh)]
    saved = compressed.state_dict()
    flat = {name: residual.flatten() for name, residual in saved["residuals"].items()}
    others[0].load_state_dict(saved)
    others[1].load_state_dict(saved | {"residuals": flat})
    expected, same, same_too, other = (step(each, 2) for each in (model, resumed, older, fresh))
    assert all(torch.equal(same[name], shard) for name, shard in expected.items())
    assert all(torch.equal(same_too[name], shard) for name, shard in expected.items())
    assert not all(torch.equal(other[name], shard) for name, shard in expected.items())
    with pytest.raises(ValueError, match=r"no\.such"):
        compressed.load_state_dict(
            compressed.state_dict() | {"residuals": {"no.such": torch.zeros(3)}}
        )


class _Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.always, self.sometimes = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, both: bool) -> torch.Tensor:
        y: torch.Tensor = self.always(x)
        return self.sometimes(y) if both else y


def unused_parameters() -> None:
    """A step that leaves a parameter out is refused, as its residual would be another's."""
    models: list[Any] = []
    has_zeros = hasattr(FSDPModule, "set_reduce_scatter_unused_params")  # not in torch 2.11
    for unused in (False, True)[: 1 + has_zeros]:
        model: Any = _Branches()
        fully_shard(model)
        fsdp.compress(model, "int8")
        if unused:
            model.set_reduce_scatter_unused_params(True)
        models.append(model)
    for both in (True, False):
        for model in models[1:]:
            model(torch.ones(2, WIDTH), both).sum().backward()
    with pytest.raises(ValueError, match="feedback=False"):
        models[0](torch.ones(2, WIDTH), False).sum().backward()


def refusals() -> None:
    """Bad arguments are refused, with the remedy."""
    rank, _ = me_and_world()
    with pytest.raises(ValueError, match="fully_shard"):
        fsdp.compress(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="topk, which needs error feedback"):
        fsdp.compress(_net(), None, "topk")
    stochastic = codecs.Codec("int8", feedback=False, rounding="stochastic")
    with pytest.raises(ValueError, match=r"'stochastic'; .*weights=.* allows 'nearest'"):
        fsdp.compress(_net(), None, stochastic)
    with pytest.raises(ValueError, match=r"residual_bits is 8; .*gradients=.* allows 32"):
        fsdp.compress(_net(), codecs.Codec("int8", feedback=True, residual_bits=8))
    model = _net()
    fsdp.compress(model, "int8")
    for each in (model, model[2]):
        each.set_gradient_divide_factor(5.0)
    with pytest.raises(ValueError, match="set_force_sum_reduction_for_comms"):
        _loss(model, _inputs(0, rank)).backward()
    summed = _net()
    fsdp.compress(summed, "int8")
    for each in (summed, summed[2]):
        each.set_gradient_divide_factor(5.0)
        each.set_force_sum_reduction_for_comms(True)
    _loss(summed, _inputs(0, rank)).backward()


def optimizers_of_one_bit() -> None:
    """AdamW is refused for as long as a module that holds its parameters encodes with 1bit."""
    rank, _ = me_and_world()
    model = _net()
    optimizer = torch.optim.AdamW(model.parameters())
    fsdp.compress(model, "1bit")
    fsdp.compress(model, gradients=None, weights="int8")  # leaves the codec of the gradients
    _loss(model, _inputs(0, rank)).backward()
    refused = pytest.raises(ValueError, match=r"codec 1bit of parameter '0\.weight' .* with AdamW")
    with refused:
        optimizer.step()
    fsdp.compress(model[2], "1bit")
    fsdp.compress(model, "int8")  # replaces the codec of model[2], too
    optimizer.step()
    fsdp.compress(model, "1bit")
    model.load_state_dict(model.state_dict(), assign=True)  # replaces the parameters
    optimizer = torch.optim.AdamW(model.parameters())
    _loss(model, _inputs(1, rank)).backward()
    with refused:
        optimizer.step()
