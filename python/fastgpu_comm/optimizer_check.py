"""Refuses Adam-like optimizers for parameters with 1bit, at their first step.

Neither DistributedDataParallel nor a hook or `fsdp.compress` meets the optimizer. So a function of
this module runs before the steps of all optimizers of the process. It is registered with the first
model that has parameters with 1bit.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from fastgpu_comm import codecs

# For each model its parameters with 1bit: their names in errors, by their names in the model. It
# does not hold the parameters: load_state_dict(assign=True) replaces them, and torch cannot move a
# DTensor that has weak references.
_names: weakref.WeakKeyDictionary[torch.nn.Module, dict[str, str]] = weakref.WeakKeyDictionary()
# The number of parameter groups that an optimizer had when it was checked.
_checked: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
_hooks: list[Any] = []  # ours, once it is registered


def check_optimizers_of(
    model: torch.nn.Module, names: Mapping[str, str], chosen: Sequence[codecs.Codec | None]
) -> None:
    """Makes the first step of an Adam-like optimizer fail if it has parameters with 1bit.

    The step raises the error of `codecs.check_optimizer` on every rank, and changes nothing. Models
    without 1bit, or with `any_optimizer`, cost nothing. A second call for a model replaces the
    first. A deleted model is forgotten.

    Args:
        model: The model, or an FSDP module of one.
        names: The names of parameters as errors show them, by those of `model.named_parameters()`.
        chosen: The codec of each.
    """
    found = {
        name: shown
        for (name, shown), codec in zip(names.items(), chosen, strict=True)
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
    for model, names in list(_names.items()):
        named = model.named_parameters(remove_duplicate=False)
        found = {id(each): names[name] for name, each in named if name in names}
        name = next((found[id(each)] for each in held if id(each) in found), None)
        if name is not None:
            codecs.check_optimizer("1bit", stepping, parameter=name)
    _checked[optimizer] = groups
