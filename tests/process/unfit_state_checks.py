"""Checks of states of other objects and damaged ones. Run by test_saved_states.py on every rank.

Errors say what the state is, and how it can be loaded; nothing has changed then.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.process.ddp_models import WIDTH, net
from tests.process.saved_state_checks import equal, states
from torch import nn

from fastgpu_comm import DistributedDataParallel, OuterOptimizer


def states_of_other_classes() -> None:
    """A state that an object of another class saved is called that."""
    saved = states()
    for name, save, _ in saved:
        for other, before, load in saved:
            if other == name:
                continue
            kept = before()
            message = rf"the state is what {name}\(\) returned; load what {other}\(\) returned"
            with pytest.raises(ValueError, match=message):
                load(save())
            assert equal(before(), kept)
    plain = DistributedDataParallel(net())
    message = r"of '2.weight', which has none here; use .*, or load state \| \{'residuals': \{\}\}$"
    with pytest.raises(ValueError, match=message):
        plain.load_reducer_state_dict(saved[0][1]())
    plain.load_reducer_state_dict(saved[0][1]() | {"residuals": {}})
    dist.barrier()


def residuals_that_are_not_finite() -> None:
    """They are refused with the parameter's name, and the state loads without them."""
    for name, save, load in states():
        before = save()
        without: dict[str, Any] = {"residuals": {}}
        if name.startswith("OuterOptimizer"):
            without = {"residual": None}
        (key,) = without
        for bad in (torch.nan, torch.inf, -torch.inf):
            if key == "residual":
                kept = before[key].clone()
                kept[WIDTH * WIDTH + WIDTH + 5] = bad
                damaged, owner = kept, "residual of the state, of parameter '2.weight',"
            else:
                (owner, kept), *_ = before[key].items()
                damaged = before[key] | {owner: torch.full_like(kept, bad)}
                owner = f"the residual of {owner!r}"
            message = f"{owner} has numbers that are not finite; .*{key}': (None|{{}})}}"
            with pytest.raises(ValueError, match=message):
                load(before | {key: damaged})
            assert equal(save(), before)
        if "factors" in before:
            factors = {
                key: torch.full_like(each, torch.nan) for key, each in before["factors"].items()
            }
            with pytest.raises(ValueError, match=r"factor of '2.weight' has .* on all ranks$"):
                load(before | {"factors": factors})
        load(before | without)
        assert not equal(save(), before)
    dist.barrier()


def outer_state_of_another_optimizer() -> None:
    """Entries for the wrapped optimizer that it cannot load are refused, and change nothing."""
    weight = nn.Parameter(torch.ones(3))

    def loaded(make: Any, **options: Any) -> OuterOptimizer:
        optimizer = OuterOptimizer(make([weight], lr=0.1, **options))
        weight.grad = torch.ones(3)
        optimizer.step()
        return optimizer

    adam, sgd = loaded(torch.optim.Adam), loaded(torch.optim.SGD, momentum=0.9)
    before = adam.state_dict()
    theirs = sgd.state_dict()["optimizer"]
    for wrong, error, message in (
        (None, TypeError, "entry 'optimizer' of the state is None; .* the wrapped Adam.state_dict"),
        ([theirs], TypeError, "entry 'optimizer' of the state is of class list;"),
        ({}, ValueError, "the wrapped Adam cannot load entry 'optimizer' .*KeyError: 'param_gr"),
        ({"param_groups": None}, ValueError, "cannot load .*TypeError"),
        (theirs, ValueError, "cannot load .*KeyError: 'step'.*; it must be what Adam.state_dict"),
    ):
        with pytest.raises(error, match=message):
            adam.load_state_dict(before | {"optimizer": wrong, "steps": 9})
        after = adam.state_dict()
        assert equal(after, before)
        assert adam.state is adam.optimizer.state
        assert adam.param_groups[0] is adam.optimizer.param_groups[0]
    for shapes in (3, [3]):
        with pytest.raises(TypeError, match=r"shapes of the state is .*; it must be a list of tup"):
            adam.load_state_dict(before | {"shapes": shapes})
    adam.step()
    dist.barrier()
