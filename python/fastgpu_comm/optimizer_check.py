"""Refuses Adam-like optimizers for parameters with 1bit, at their first step.

Neither DistributedDataParallel nor a hook or `fsdp.compress` meets the optimizer. So a function of
this module runs before the steps of all optimizers of the process. It is registered with the first
model that has parameters with 1bit.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from fastgpu_comm import codecs

# For each model the names of its parameters with 1bit, by id: a model keeps its parameters alive.
_names: weakref.WeakKeyDictionary[torch.nn.Module, dict[int, str]] = weakref.WeakKeyDictionary()
# The number of parameter groups that an optimizer had when it was checked.
_checked: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
_hooks: list[Any] = []  # ours, once it is registered


def check_optimizers_of(
    model: torch.nn.Module,
    names: Sequence[str],
    parameters: Sequence[torch.Tensor],
    chosen: Sequence[codecs.Codec | None],
) -> None:
    """Makes the first step of an Adam-like optimizer fail if it has parameters with 1bit.

    The step raises the error of `codecs.check_optimizer` on every rank, and changes nothing. Models
    without 1bit, or with `any_optimizer`, cost nothing. A second call for a model replaces the
    first. A deleted model is forgotten.

    Args:
        model: The model, or an FSDP module of one; it must keep the parameters alive.
        names: The names of the parameters.
        parameters: The parameters.
        chosen: The codec of each.
    """
    found = {
        id(parameter): name
        for name, parameter, codec in zip(names, parameters, chosen, strict=True)
        if codec is not None and codec.name == "1bit" and not codec.any_optimizer
    }
    if not found:
        _names.pop(model, None)
        return
    _names[model] = found
    _checked.clear()  # an optimizer may be older than the model
    if not _hooks:
        _hooks.append(register_optimizer_step_pre_hook(_check))


@torch._disable_dynamo
def _check(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    groups = len(optimizer.param_groups)
    if _checked.get(optimizer) == groups:
        return
    # ZeroRedundancyOptimizer lists the parameters of all ranks, and its `optim` steps this rank's.
    inner = getattr(optimizer, "optim", None)
    stepping = inner if isinstance(inner, Optimizer) else optimizer
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for names in list(_names.values()):
        name = next((names[id(each)] for each in held if id(each) in names), None)
        if name is not None:
            codecs.check_optimizer("1bit", stepping, parameter=name)
    _checked[optimizer] = groups
