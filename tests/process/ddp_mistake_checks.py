"""Checks of mistakes with codecs, hooks and pickles. Run by test_ddp.py on every rank.

Errors say what was given and what is allowed, and come on every rank if ranks differ.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.ddp_models import WIDTH, gradients, inputs, loss_of, net, same_everywhere
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel as TorchDDP

from fastgpu_comm import DistributedDataParallel, OuterOptimizer, fsdp, hooks

NOTHING: Any = None
Case = tuple[Callable[[], object], type[Exception], str]


def _of_name(name: str) -> str:
    raise AssertionError(name)


ONE_ARGUMENT = (
    r"_of_name\(name: '?str'?\) -> '?str'?, which cannot be called with three arguments; it must "
    r"be a function \(name, shape, dtype\)$"
)


def _wrong(value: object) -> Any:
    """Returns an argument of a type that is not allowed."""
    return value


def _backward(model: nn.Module, step: int) -> list[torch.Tensor]:
    rank, _ = me_and_world()
    model.zero_grad()
    loss_of(model, inputs(step, rank)).backward()
    return gradients(model)


def _refused(cases: list[Case]) -> None:
    for act, error, message in cases:
        with pytest.raises(error, match=message):
            act()
    dist.barrier()


def arguments() -> None:
    """Wrong types and names are answered in words."""
    model = DistributedDataParallel(net(), codec="int8", weighted="sum")
    cases: list[Case] = [
        (
            lambda: DistributedDataParallel(net(), codec="atuo"),
            ValueError,
            r"no codec 'atuo'; there are fp16, .*1bit, auto\. Did you mean 'auto'",
        ),
        (
            lambda: DistributedDataParallel(net(), codec=_wrong(8)),
            TypeError,
            r"codec is 8; it must be a name, a codecs\.Codec, or a function \(name, shape, dtype\)",
        ),
        (
            lambda: DistributedDataParallel(net(), codec=_wrong(_of_name)),
            TypeError,
            rf"codec is {ONE_ARGUMENT}",
        ),
        (
            lambda: DistributedDataParallel(net(), codec=lambda *_: _wrong(8)),
            TypeError,
            "the policy's result for '0.weight' is 8; it must be a name, a Codec or None",
        ),
        (
            lambda: DistributedDataParallel(net(), codec=lambda *_: "auto"),
            ValueError,
            "the policy's result for '0.weight': codec 'auto' is for Dist.*; here there are fp16",
        ),
        (
            lambda: DistributedDataParallel(net(), bucket_plan=[["weight"]]),
            ValueError,
            "bucket_plan has 'weight', which is no parameter of this model",
        ),
        (
            lambda: DistributedDataParallel(net(), bucket_plan=_wrong(["0.weight"])),
            TypeError,
            r"bucket_plan is \['0.weight'\]; it must be a list of lists",
        ),
        (
            lambda: model.follow_scaler(NOTHING),
            TypeError,
            r"scaler is None; it must be a torch.amp.GradScaler; .* GradScaler\(enabled=False\)",
        ),
        (
            lambda: model.set_weight(NOTHING),
            TypeError,
            "the weight is None; it must be a number",
        ),
        (lambda: model.set_weight(_wrong("3")), TypeError, "the weight is '3'; it must be"),
        (lambda: model.set_weight(_wrong(torch.ones(2))), TypeError, "is of class Tensor"),
        (lambda: model.set_weight(10**400), ValueError, "too large for a float; it must be"),
    ]
    _refused(cases)


def arguments_of_hooks() -> None:
    """The same for the states of hooks."""
    plain, wrapped = net(), TorchDDP(net())

    def bad_rank(*_: object) -> Any:
        return "2"

    cases: list[Case] = [
        (
            lambda: hooks.CodecState(_wrong(plain), "int8"),
            TypeError,
            "model is of class Sequential; it must be the wrapped model: torch.nn.parallel",
        ),
        (
            lambda: hooks.CodecState(wrapped, _wrong(8)),
            TypeError,
            r"codec is 8; it must be a name, a codecs\.Codec, or a function \(name, shape, dtype\)",
        ),
        (
            lambda: hooks.CodecState(wrapped, _wrong(_of_name)),
            TypeError,
            rf"codec is {ONE_ARGUMENT}",
        ),
        (
            lambda: hooks.PowerSgdState(wrapped, rank=_wrong(_of_name)),
            TypeError,
            rf"rank is {ONE_ARGUMENT}",
        ),
        (lambda: hooks.CodecState(wrapped, "auto"), ValueError, "'auto' is for Distributed"),
        (lambda: hooks.PowerSgdState(_wrong(plain)), TypeError, "model is of class Sequential"),
        (
            lambda: hooks.PowerSgdState(wrapped, rank=_wrong("2")),
            ValueError,
            "rank is '2'; it must be an integer of at least 1, or a function",
        ),
        (
            lambda: hooks.PowerSgdState(wrapped, rank=bad_rank),
            ValueError,
            "the rank of '0.weight' is '2'; it must be an integer of at least 0",
        ),
        (
            lambda: hooks.PowerSgdState(wrapped, start_step=NOTHING),
            ValueError,
            "start_step is None",
        ),
        (
            lambda: hooks.PowerSgdState(wrapped, min_ratio=NOTHING),
            ValueError,
            "min_ratio is None",
        ),
        (
            lambda: hooks.PowerSgdState(wrapped, refresh_every=_wrong("9")),
            ValueError,
            "refresh_every is '9'; it must be an integer of at least 2, or None",
        ),
        (
            lambda: hooks.codec_hook(NOTHING, NOTHING),
            TypeError,
            r"is None; .* a CodecState: register_.*CodecState\(model, .int8.\), hooks.codec_hook\)",
        ),
        (
            lambda: hooks.power_sgd_hook(NOTHING, NOTHING),
            TypeError,
            r"None; .* a PowerSgdState: register_.*PowerSgdState\(model\), hooks.power_sgd_hook\)",
        ),
    ]
    _refused(cases)


def arguments_of_others() -> None:
    """The same for OuterOptimizer and fsdp.compress."""
    plain, inner = net(), torch.optim.SGD(net().parameters(), lr=0.1)
    cases: list[Case] = [
        (lambda: OuterOptimizer(_wrong(plain)), TypeError, "optimizer is of class Sequential"),
        (lambda: OuterOptimizer(inner, every=_wrong("9")), ValueError, "every is '9'"),
        (lambda: OuterOptimizer(inner, lr=_wrong("1")), ValueError, "lr is '1'; it must be"),
        (lambda: OuterOptimizer(inner, lr=10**400), ValueError, "it must be a finite number above"),
        (lambda: OuterOptimizer(inner, momentum=NOTHING), ValueError, "momentum is None"),
        (lambda: OuterOptimizer(inner, codec="auto"), ValueError, "'auto' is for Distributed"),
        (lambda: OuterOptimizer(inner, group=_wrong("world")), TypeError, "group is 'world'"),
        (lambda: fsdp.compress(_wrong(inner)), TypeError, "model is of class SGD; .*fully_shard"),
        (lambda: fsdp.compress(plain, "auto"), ValueError, "'auto' is for Distributed"),
    ]
    _refused(cases)


def pickle_of_another_rank() -> None:
    """A model that rank 0 pickled for all has residuals on rank 0 alone; others are told."""
    rank, _ = me_and_world()
    model = DistributedDataParallel(net(), codec="int4")
    _backward(model, 0)
    assert copy.deepcopy(model).reducer_state_dict()["residuals"]
    file = io.BytesIO()
    torch.save(model, file)
    pickles = [file.getvalue()]
    dist.broadcast_object_list(pickles, src=0)

    def load() -> Any:
        return torch.load(io.BytesIO(pickles[0]), weights_only=False)

    if rank == 0:
        loaded = load()
    else:
        with pytest.warns(UserWarning, match="rank 0 pickled this model, and this is rank 1"):
            loaded = load()
    residual = loaded.reducer_state_dict()["residuals"].get("2.weight", torch.zeros(1))
    assert bool(residual.any()) == (rank == 0)
    same_everywhere(_backward(loaded, 1))


def states_that_differ() -> None:
    """Hooks and fsdp.compress compare their arguments; the error comes on all ranks."""
    rank, _ = me_and_world()
    odd = rank == 1
    for codec, message in (
        ("int8" if odd else "int4", r"CodecState needs the same .*rank 0 .*int4.*rank 1 .*int8"),
        (lambda *_: "int8" if odd else None, r"no codec, and rank 1 has .*int8"),
    ):
        model = TorchDDP(net())
        model.register_comm_hook(hooks.CodecState(model, codec), hooks.codec_hook)
        with pytest.raises(RuntimeError, match=message):
            _backward(model, 0)
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"rank": 2 + odd}, r"2.weight: rank=2, \(96, 96\), and rank 1 has 2.weight: rank=3"),
        ({"start_step": 5 + odd}, "start_step=5.* and rank 1 has start_step=6"),
    )
    for options, message in cases:
        model = TorchDDP(net())
        model.register_comm_hook(hooks.PowerSgdState(model, **options), hooks.power_sgd_hook)
        with pytest.raises(RuntimeError, match=message):
            _backward(model, 0)
    sharded = nn.Linear(WIDTH, WIDTH)
    fully_shard(sharded)
    with pytest.raises(RuntimeError, match=r"fsdp.compress needs .*gradients=None"):
        fsdp.compress(sharded, "int8" if odd else None)
    dist.barrier()
