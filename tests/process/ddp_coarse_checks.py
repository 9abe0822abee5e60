"""Checks of coarse codecs, and of numbers that are not finite or nearly so. Run by test_ddp.py."""

from __future__ import annotations

import copy
import gc
import pickle
from typing import Any

import pytest
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
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel as TorchDDP

from fastgpu_comm import DistributedDataParallel, hooks
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


# The most that one encoding may take from an element of a block with the largest magnitude 1:
# docs/compression.md, "Error".
ERRORS = {"fp16": 2**-11, "bf16": 2**-8, "int8": (1 + 2**-7) / 128, "int4": (1 + 2**-7) / 8}


def _largest_error(codec: str, largest: float) -> float:
    """Returns the bound of a mean's error, for gradients of at most `largest` and no residuals.

    With e of ERRORS: an owner adds its own contribution and world - 1 others, each of which is off
    by at most e * largest / world. It encodes the sum, of at most largest * (1 + e), once more.
    """
    _, world = me_and_world()
    error = ERRORS[codec]
    return largest * error * ((world - 1) / world + 1 + error)


def large_numbers(codec: str, way: str) -> None:
    """Gradients whose mean is finite: docs/compression.md, "Largest numbers"."""
    rank, _ = me_and_world()
    wrap = DistributedDataParallel if way == "ddp" else TorchDDP
    options: Any = {"codec": codec} if way == "ddp" else {}
    model: Any = wrap(_matrix(), **options)
    exact = TorchDDP(_matrix())
    if way == "hook":
        state = hooks.CodecState(model, codec)
        model.register_comm_hook(state, hooks.codec_hook)

    def step(factor: float) -> tuple[torch.Tensor, torch.Tensor]:
        row = torch.linspace(0.5, 1, 96) * factor
        row[::2] *= -1 if rank == 0 else 1  # opposite signs on the ranks
        for each in (model, exact):
            each.zero_grad()
            each(row.unsqueeze(0)).sum().backward()
        mine, other = gradients(model)[0], gradients(exact)[0]
        same_everywhere([mine])
        assert bool(other.isfinite().all())
        return mine, other

    if codec == "fp16":
        mine, other = step(65300)
        assert float((mine - other).abs().max()) <= _largest_error(codec, 65300)
        mine, _ = step(65536)
        assert bool((mine[:, -1] == torch.inf).all())  # the largest; the ranks agree on its sign
        assert bool(mine[:, :-1].isfinite().all())
        mine, _ = step(1.9 * 65536)  # a contribution, divided by the ranks, is below 65504
        assert bool((mine[:, -1] == torch.inf).all())
        assert not bool(mine.isnan().any())
    mine, other = step(1e38)
    if codec == "fp16":
        assert not bool(mine.isfinite().any())
        assert bool(mine[:, ::2].isnan().any())  # the sum of both infinities
        assert bool((mine[:, 1::2] == torch.inf).all())
        return
    assert bool(mine.isfinite().all())
    if codec in ERRORS:
        assert float((mine - other).abs().max()) <= _largest_error(codec, 1e38)
    later = [step(1e38)[0] for _ in range(8)]
    if codec != "topk":
        assert all(bool(each.isfinite().all()) for each in later)
        return
    # The residuals of what is not sent grow until a gradient with its residual is no float32.
    assert bool(later[0].isfinite().all())
    assert bool(later[-1].isnan().any())
    assert bool(step(1e30)[0].isnan().any())
    if way == "ddp":
        model.load_reducer_state_dict(model.reducer_state_dict() | {"residuals": {}})
    else:
        state.load_state_dict(state.state_dict() | {"residuals": {}})
    assert bool(step(1e30)[0].isfinite().all())


def _matrix() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(96, 96, bias=False)


def _adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01)


def optimizers_of_one_bit() -> None:
    """An Adam-like optimizer of 1bit parameters raises at its first step, and changes nothing."""
    rank, _ = me_and_world()
    error = r"codec 1bit of parameter '2\.weight' does not work with AdamW.*any_optimizer=True"

    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        loss_of(model, inputs(0, rank)).backward()
        before = [p.clone() for p in model.parameters()]
        try:
            optimizer.step()
        except ValueError:
            assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
            raise

    plain = net()
    older = _adam(plain.parameters())
    train(plain, older)
    model = DistributedDataParallel(plain, codec="1bit")
    later = torch.optim.AdamW(model.module[0].parameters(), lr=0.01)  # exact ones
    train(model, later)
    later.add_param_group({"params": [model.module[2].weight]})
    # Every rank has a part of the parameters, and only one has the weight with 1bit.
    sharded = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=0.01)
    for optimizer in (older, later, sharded):
        for _ in range(2):
            with pytest.raises(ValueError, match=error):
                train(model, optimizer)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(loss_of(model, inputs(0, rank))).backward()
    with pytest.raises(ValueError, match=error):
        scaler.step(older)
    train(model, torch.optim.SGD(model.parameters(), lr=0.01))
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with pytest.raises(ValueError, match=error):
            train(copied, _adam(copied.parameters()))
    with pytest.raises(ValueError, match=error):
        torch.compile(older.step, backend="eager")()
    del model, copied, sharded, optimizer
    gc.collect()
    train(plain, older)  # no gradient is encoded any more
    hooked = TorchDDP(net())
    hooked.register_comm_hook(hooks.CodecState(hooked, "1bit"), hooks.codec_hook)
    with pytest.raises(ValueError, match=error):
        train(hooked, _adam(hooked.parameters()))


def optimizers_that_one_bit_allows() -> None:
    """Adam trains parameters of 1bit with any_optimizer, and parameters of another codec."""
    rank, _ = me_and_world()
    models = [
        DistributedDataParallel(net(), codec=codec)
        for codec in (None, "topk", Codec("1bit", any_optimizer=True), "1bit")
    ]
    for model in models[:-1]:
        optimizer = _adam(model.parameters())
        for step in range(2):
            optimizer.zero_grad()
            loss_of(model, inputs(step, rank)).backward()
            optimizer.step()
        same_everywhere(list(model.parameters()))
