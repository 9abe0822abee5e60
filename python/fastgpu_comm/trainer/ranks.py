"""The collectives that the trainer needs, over a process group or one process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class Ranks:
    """The ranks that train together, or only this process if there is no group.

    Every method is a collective: all ranks call it at the same point, from the training thread.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        """Takes the group, or None for this process only."""
        self._group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.world = 1 if group is None else dist.get_world_size(group)

    def sum_in_place(self, values: Tensor) -> None:
        """Replaces the values by their sums over the ranks."""
        if self._group is not None:
            dist.all_reduce(values, group=self._group)

    def gather(self, value: T) -> list[T]:
        """Returns the values of all ranks, in rank order."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self._group)
        return values

    def broadcast(self, value: T) -> T:
        """Returns rank 0's value on every rank."""
        if self._group is None:
            return value
        values: list[T] = [value]
        dist.broadcast_object_list(values, group=self._group, group_src=0)
        return values[0]

    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites the tensors with those of rank 0."""
        if self._group is not None:
            for tensor in tensors:
                dist.broadcast(tensor, group=self._group, group_src=0)

    def check_agreement(self, facts: dict[str, object]) -> None:
        """Checks that `facts` are equal on all ranks.

        Raises:
            ValueError: A value differs; every rank raises it, with the name and both ranks.
        """
        first, *others = self.gather(facts)
        for rank, other in enumerate(others, start=1):
            for name, value in first.items():
                if other[name] != value:
                    raise ValueError(
                        f"The ranks disagree: {name} is {value!r} on rank 0 and {other[name]!r} "
                        f"on rank {rank}. Start all ranks with the same data and settings."
                    )
