"""States with residuals. A rank saves and loads those of its own gradients.

A residual is what encoding took from one rank's gradients. Loaded on all ranks, it would arrive as
often as there are ranks, and those of the other ranks never.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from fastgpu_comm import arguments


def origin(group: dist.ProcessGroup | None) -> dict[str, int]:
    """Returns the entries of a state that tell which rank of how many saved it."""
    return {"rank": dist.get_rank(group), "world_size": dist.get_world_size(group)}


def same_world(state: Mapping[str, Any], group: dist.ProcessGroup | None) -> bool:
    """Tells whether as many ranks saved a state. States of earlier versions do not tell."""
    here = dist.get_world_size(group)
    return bool(state.get("world_size", here) == here)


def is_others(state: Mapping[str, Any], group: dist.ProcessGroup | None) -> bool:
    """Tells whether another rank saved a state, in a group of the same size.

    With another number of ranks the program decides which rank loads which state. States of earlier
    versions do not have their rank.
    """
    mine = origin(group)
    return state.get("world_size") == mine["world_size"] and state.get("rank") != mine["rank"]


def own(state: dict[str, Any], group: dist.ProcessGroup | None) -> dict[str, Any]:
    """Returns the state; without residuals if it was saved by another rank."""
    if not is_others(state, group):
        return state
    if state["residuals"]:
        warnings.warn(
            f"rank {state['rank']} pickled this model, and this is rank {dist.get_rank(group)}: "
            "its residuals start from zero. Let each rank pickle its own.",
            stacklevel=3,
        )
    return state | {"residuals": {}} | origin(group)


def for_rank(
    states: Sequence[dict[str, Any] | None], group: dist.ProcessGroup | None
) -> dict[str, Any] | None:
    """Returns what this rank loads of the states that all ranks of a run saved, by rank.

    If there are fewer ranks now, the residuals of those that are gone are added to the others'. If
    there are more, the new ones load the first state without residuals. So each residual arrives
    once, and all ranks load a state or none does.
    """
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    found = [state for state in states if state is not None]
    mine = [state for state in states[rank::world] if state is not None]
    if not found:
        return None
    residuals: dict[str, torch.Tensor] = {}
    for name, residual in itertools.chain(*(each["residuals"].items() for each in mine)):
        residuals[name] = residuals[name] + residual if name in residuals else residual
    return (mine or found)[0] | {"residuals": residuals} | origin(group)


def check(
    state: Any, keys: Iterable[str], made_by: str, group: dist.ProcessGroup | None = None
) -> None:
    """Refuses what is no state of this rank.

    Args:
        state: What is to be loaded.
        keys: The keys that it must have.
        made_by: The method that returns such states.
        group: The process group of the ranks.

    Raises:
        TypeError: It is no mapping.
        ValueError: It lacks a key, an object of another class saved it, or another rank did, in a
            group of the same size.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"the state must be what {made_by} returned, not {type(state).__name__}")
    found = _maker_of(state)
    if found not in (None, made_by):
        raise ValueError(f"the state is what {found} returned; load what {made_by} returned")
    # States of earlier versions have neither.
    both = ("rank", "world_size") if "rank" in state or "world_size" in state else ()
    missing = [key for key in dict.fromkeys((*keys, *both)) if key not in state]
    if missing:
        raise ValueError(
            f"the state lacks {', '.join(map(repr, missing))}; load what {made_by} returned"
        )
    if both:
        arguments.check_integer("rank of the state", state["rank"], 0)
        arguments.check_integer("world_size of the state", state["world_size"], 1)
    if is_others(state, group):
        rank = dist.get_rank(group)
        raise ValueError(
            f"rank {state['rank']} saved this state, and this is rank {rank}. Each rank must load "
            f"its own. If the ranks have been renumbered, load state | {{'rank': {rank}}}."
        )


def _maker_of(state: Mapping[str, Any]) -> str | None:
    """Returns the method that made a state, by keys that only it uses; None: not known."""
    for key, maker in (
        ("bucket_plan", "reducer_state_dict()"),
        ("factors", "PowerSgdState.state_dict()"),
        ("velocity", "OuterOptimizer.state_dict()"),
    ):
        if key in state:
            return maker
    if "residuals" in state and isinstance(state.get("sums"), int):
        return "CodecState.state_dict()"
    if "residuals" in state and isinstance(state.get("sums"), Mapping):
        return "Compressed.state_dict()"
    return None


def check_tensors(kind: str, tensors: Any, shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuses tensors of a state that fit no parameter or module.

    Args:
        kind: The singular noun for errors, such as "residual"; the plural is the state's key.
        tensors: What the state has under that key: tensors by name.
        shapes: The allowed shape of each tensor, by name.

    Raises:
        TypeError: It is no mapping, or has something else than floating-point tensors.
        ValueError: There is no such name, the shape is another, or a number is not finite.
    """
    if not isinstance(tensors, Mapping):
        wanted = "a dict of tensors by name"
        raise arguments.wrong_type(f"entry '{kind}s' of the state", tensors, wanted)
    without = f"state | {{'{kind}s': {{}}}}"
    if kind == "factor":  # PowerSGD's Q, which all ranks must have alike
        without += " on all ranks"
    for name, tensor in tensors.items():
        if name not in shapes:
            raise ValueError(
                f"the state has a {kind} of {name!r}, which has none here; use the model and codec "
                f"of the saved run, or load {without}"
            )
        check_tensor(f"the {kind} of {name!r}", tensor)
        if tuple(tensor.shape) != tuple(shapes[name]):
            raise ValueError(
                f"the {kind} of {name!r} is of shape {tuple(tensor.shape)}; here it is of "
                f"shape {tuple(shapes[name])}"
            )
        check_finite(f"the {kind} of {name!r}", tensor, without)


def check_tensor(name: str, value: Any) -> None:
    """Raises TypeError unless an entry of a state is a floating-point tensor, with numbers."""
    wanted = "a tensor of floating-point numbers"
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        raise arguments.wrong_type(name, value, wanted)
    if value.is_meta:
        raise TypeError(f"{name} is a meta tensor, without numbers; it must be {wanted}")


def check_finite(name: str, tensor: torch.Tensor, without: str) -> None:
    """Raises ValueError if a tensor of a state has a NaN or an infinity, in float32.

    Saved residuals have none: encoding leaves a residual alone rather than make it infinite.

    Args:
        name: What the tensor is, for the error.
        tensor: The tensor.
        without: An expression for the state without it, for the error.
    """
    if not bool(tensor.to(torch.float32).isfinite().all()):
        raise ValueError(
            f"{name} has numbers that are not finite; load what was saved, or, to leave it out, "
            f"{without}"
        )


def counter(state: Mapping[str, Any], key: str) -> int:
    """Returns an entry of a state that counts; 0 if the state, of an earlier version, lacks it.

    Raises:
        ValueError: It is no integer of at least 0.
    """
    value: int = state.get(key, 0)
    arguments.check_integer(f"{key} of the state", value, 0)
    return value


def counters(state: Mapping[str, Any], key: str, names: Iterable[str]) -> dict[str, int]:
    """Returns the counters, by name, that an entry of a state has, as `counter` does.

    Raises:
        TypeError: The entry is no mapping.
        ValueError: One is no integer of at least 0.
    """
    found = state.get(key, {})
    if not isinstance(found, Mapping):
        raise arguments.wrong_type(f"{key} of the state", found, "a dict of integers by name")
    return {name: counter(found, name) for name in names}


def copied(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns copies in float32 on the CPU, as residuals are kept."""
    return {name: each.to("cpu", torch.float32, copy=True) for name, each in tensors.items()}
