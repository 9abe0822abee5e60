"""Checks of set_weight: which forward passes a weight counts for. Run by test_ddp.py on every rank.

The gradient of the weight of `_model` is `factor` for each element, so a result is a quotient of
sums.
"""

from __future__ import annotations

import contextlib
import copy
import pickle
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.ddp_models import WIDTH, gradients
from torch import nn

from fastgpu_comm import DistributedDataParallel


def _model(weighted: str) -> DistributedDataParallel:
    return DistributedDataParallel(nn.Linear(WIDTH, WIDTH, bias=False), weighted=weighted)


def _loss(model: nn.Module, factor: float) -> torch.Tensor:
    loss: torch.Tensor = model(torch.full((1, WIDTH), factor)).sum()
    return loss


def _result(model: DistributedDataParallel) -> float:
    gradient = model.module.weight.grad
    assert isinstance(gradient, torch.Tensor)
    assert bool((gradient == gradient[0, 0]).all())
    return float(gradient[0, 0])


def weights_that_add_up() -> None:
    """All weights since the last reduction count, also those set twice or under no_sync."""
    rank, world = me_and_world()
    for weighted in ("sum", "mean"):
        for micro_batches in (1, 3):
            model = _model(weighted)
            for _ in range(2):  # the weights of the first step do not count in the second one
                model.zero_grad()
                for number in range(micro_batches):
                    last = number + 1 == micro_batches
                    with contextlib.nullcontext() if last else model.no_sync():
                        model.set_weight(1 + rank)
                        model.set_weight(2)  # together 3 + rank
                        _loss(model, (1 + rank) / micro_batches).backward()
                weights = [micro_batches * (3 + r) for r in range(world)]
                factors = [1 if weighted == "sum" else weight for weight in weights]
                total = sum(f * (1 + r) for r, f in enumerate(factors))
                assert _result(model) == pytest.approx(total / sum(weights), rel=1e-6)


def weights_without_backward() -> None:
    """The weight of a forward pass without a backward one counts in the next reduction."""
    rank, world = me_and_world()
    for skipped_under_no_sync in (False, True):
        model = _model("sum")
        with model.no_sync() if skipped_under_no_sync else contextlib.nullcontext():
            model.set_weight(5)
            with contextlib.suppress(ArithmeticError):
                _loss(model, 1.0)
                raise ArithmeticError  # before backward
        for extra in (5, 0):
            model.zero_grad()
            model.set_weight(3 + rank)
            _loss(model, 1.0).backward()
            weights = sum(extra + 3 + r for r in range(world))
            assert _result(model) == pytest.approx(world / weights, rel=1e-6)


def evaluation_without_a_weight() -> None:
    """It needs no weight and leaves that of the next step; its backward pass is refused."""
    rank, world = me_and_world()
    model: Any = _model("sum")

    def evaluate() -> None:
        for training in (False, True):
            model.train(training)
            with torch.no_grad():
                _loss(model, 1.0)
        model.eval()
        _loss(model, 1.0)  # with a graph, but without a backward pass
        model.train()

    for _ in range(2):
        evaluate()
        model.zero_grad()
        model.set_weight(2 + rank)
        with torch.no_grad():
            _loss(model, 1.0)
        _loss(model, 1.0).backward()
        assert _result(model) == pytest.approx(world / sum(2 + r for r in range(world)), rel=1e-6)
    with pytest.raises(ValueError, match=r"call set_weight\(n\) before each forward"):
        _loss(model, 1.0)
    model.eval()
    with pytest.raises(ValueError, match=r"call set_weight\(n\) before the forward pass"):
        _loss(model, 1.0).backward()
    for training in (False, True):  # goes on, in either mode
        model.train(training)
        model.zero_grad()
        model.set_weight(4)
        _loss(model, 1.0).backward()
        assert _result(model) == pytest.approx(1 / 4, rel=1e-6)


def copies_before_backward() -> None:
    """A copy has its own reducer, so the weight announced before the copy does not count in it."""
    model: Any = _model("sum")
    model.set_weight(5)
    _loss(model, 1.0)  # without a backward pass
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        copied.eval()
        with pytest.raises(ValueError, match=r"call set_weight\(n\) before the forward pass"):
            _loss(copied, 1.0).backward()
        copied.train()
        copied.zero_grad()
        copied.set_weight(4)
        _loss(copied, 1.0).backward()
        assert _result(copied) == pytest.approx(1 / 4, rel=1e-6)


def sparse_gradients_without_samples() -> None:
    """A rank with weight 0 adds nothing to a sparse gradient either, not even a NaN."""
    rank, _ = me_and_world()
    module = nn.Embedding(50, WIDTH, sparse=True)
    model = DistributedDataParallel(module, weighted="mean")
    for weights in ((0, 5), (0, 0)):
        model.zero_grad()
        model.set_weight(weights[rank])
        factor = 2.0 if weights[rank] else float("nan")
        (model(torch.tensor([rank, 7])).sum() * factor).backward()
        expected = torch.zeros(50, WIDTH)
        expected[[1, 7]] = 2.0 if any(weights) else 0.0
        assert torch.equal(gradients(model)[0].to_dense(), expected)


def weights_of_another_group() -> None:
    """A new group starts without the weights that were announced to the old one."""
    rank, world = me_and_world()
    model: Any = _model("mean")
    model.set_weight(7 * (1 + rank))
    _loss(model, 1.0)  # without a backward pass
    smaller: Any = dist.new_group(list(range(world - 1)), backend="fastgpu")
    if rank == world - 1:
        return
    model._update_process_group(smaller)
    model.eval()
    with pytest.raises(ValueError, match=r"call set_weight\(n\) before the forward pass"):
        _loss(model, 1.0).backward()
    model.train()
    model.set_weight(1 + rank)
    _loss(model, 3.0).backward()
    assert _result(model) == pytest.approx(3.0, rel=1e-6)
