"""Passes small values between the ranks through the rendezvous store.

So nothing that a benchmark has to agree on goes through the backends that it measures.
"""

from __future__ import annotations

import json

from torch.distributed import Store


class Exchange:
    """All ranks call the same methods in the same order, each from one thread."""

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        """Owns nothing: `store` must outlive it."""
        self._store = store
        self._rank = rank
        self._world_size = world_size
        self._round = 0

    def all(self, mine: str) -> list[str]:
        """Returns every rank's `mine`, in rank order."""
        self._store.set(f"exchange/{self._round}/{self._rank}", mine)
        everyone = [
            self._store.get(f"exchange/{self._round}/{rank}").decode()
            for rank in range(self._world_size)
        ]
        if self._round:  # all have set this round's value, so all have read the last round's
            self._store.delete_key(f"exchange/{self._round - 1}/{self._rank}")
        self._round += 1
        return everyone

    def slowest(self, mine: list[float]) -> list[float]:
        """Returns, place by place, the largest of the ranks' values."""
        ranks: list[list[float]] = [json.loads(text) for text in self.all(json.dumps(mine))]
        return [max(places) for places in zip(*ranks, strict=True)]

    def total(self, mine: int) -> int:
        """Returns the sum of the ranks' values."""
        return sum(int(value) for value in self.all(str(mine)))

    def first_error(self, mine: str) -> str:
        """Returns the lowest rank's text that is not empty, with its rank; empty when all are."""
        for rank, text in enumerate(self.all(mine)):
            if text:
                return f"rank {rank}: {text}"
        return ""
