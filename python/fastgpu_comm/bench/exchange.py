"""Passes small values between the ranks through the rendezvous store.

The ranks of a benchmark agree on everything this way, and not through the backends it measures.
"""

from __future__ import annotations

import json

from torch.distributed import Store


class Exchange:
    """Collectives on small values. All ranks call the same methods in the same order.

    One thread. The store must outlive the exchange.
    """

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        """Uses keys of `store` that start with "exchange/"."""
        self._store = store
        self._rank = rank
        self._world_size = world_size
        self._round = 0

    def all(self, mine: str) -> list[str]:
        """Returns every rank's text, in rank order."""
        self._store.set(f"exchange/{self._round}/{self._rank}", mine)
        everyone = [
            self._store.get(f"exchange/{self._round}/{rank}").decode()
            for rank in range(self._world_size)
        ]
        if self._round:  # every rank has started this round, so it has read the last one
            self._store.delete_key(f"exchange/{self._round - 1}/{self._rank}")
        self._round += 1
        return everyone

    def slowest(self, mine: list[float]) -> list[float]:
        """Returns the element-wise maximum over the ranks."""
        ranks: list[list[float]] = [json.loads(text) for text in self.all(json.dumps(mine))]
        return [max(values) for values in zip(*ranks, strict=True)]

    def total(self, mine: float) -> float:
        """Returns the sum over the ranks."""
        return sum(float(text) for text in self.all(repr(mine)))

    def first_error(self, mine: str) -> str:
        """Returns the lowest rank's text that is not empty, with its rank; else an empty text."""
        for rank, text in enumerate(self.all(mine)):
            if text:
                return f"rank {rank}: {text}"
        return ""
