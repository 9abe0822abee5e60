"""The few things the trainer asks of a process group, or of a process on its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class Ranks:
    """The ranks that train together; without a group, this process alone.

    Every method is a collective: all ranks call it at the same point, from the training thread.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        """Takes the group, or None for a process on its own."""
        self._group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.world = 1 if group is None else dist.get_world_size(group)

    def add_up(self, values: Tensor) -> None:
        """Replaces values by their sums over the ranks."""
        if self._group is not None:
            dist.all_reduce(values, group=self._group)

    def gather(self, value: T) -> list[T]:
        """Returns every rank's value, in rank order."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self._group)
        return values

    def from_first(self, value: T) -> T:
        """Returns rank 0's value on every rank."""
        if self._group is None:
            return value
        values: list[T] = [value]
        dist.broadcast_object_list(values, group=self._group, group_src=0)
        return values[0]

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites tensors by rank 0's."""
        if self._group is not None:
            for tensor in tensors:
                dist.broadcast(tensor, group=self._group, group_src=0)

    def check_agreement(self, facts: dict[str, object]) -> None:
        """Makes sure that all ranks were told the same.

        Raises:
            ValueError: on every rank, naming what differs and between whom.
        """
        first, *others = self.gather(facts)
        for rank, other in enumerate(others, start=1):
            for name, value in first.items():
                if other[name] != value:
                    raise ValueError(
                        f"The ranks were told different things: {name} is {value!r} on rank 0 and "
                        f"{other[name]!r} on rank {rank}. Start all ranks with the same data and "
                        "settings."
                    )
