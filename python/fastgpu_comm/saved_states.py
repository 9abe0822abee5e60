"""States with residuals. A rank saves and loads those of its own gradients.

A residual is what encoding took from one rank's gradients. Loaded on all ranks, it would arrive as
often as there are ranks, and those of the other ranks never.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist


def origin(group: dist.ProcessGroup | None) -> dict[str, int]:
    """Returns the entries of a state that tell which rank of how many saved it."""
    return {"rank": dist.get_rank(group), "world_size": dist.get_world_size(group)}


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
        ValueError: It lacks a key, or another rank saved it, in a group of the same size.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"the state must be what {made_by} returned, not {type(state).__name__}")
    missing = [key for key in keys if key not in state]
    if missing:
        raise ValueError(
            f"the state lacks {', '.join(map(repr, missing))}; load what {made_by} returned"
        )
    if is_others(state, group):
        rank = dist.get_rank(group)
        raise ValueError(
            f"rank {state['rank']} saved this state, and this is rank {rank}. Each rank must load "
            f"its own. If the ranks have been renumbered, load state | {{'rank': {rank}}}."
        )


def check_residuals(
    residuals: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size]
) -> None:
    """Raises ValueError if a residual fits no parameter.

    Args:
        residuals: By name of the parameter.
        shapes: The shapes that residuals have here, by the same names.
    """
    for name, residual in residuals.items():
        if name not in shapes:
            raise ValueError(f"the state has a residual of {name!r}, which has none here")
        if residual.shape != shapes[name]:
            raise ValueError(
                f"the residual of {name!r} is of shape {tuple(residual.shape)}; here it is of "
                f"shape {tuple(shapes[name])}"
            )
