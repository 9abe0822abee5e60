"""Events between the ranks of a check, through the store that their process group was made with.

They need no process group, so they work where one is broken, busy, or waits for a stopped rank.
"""

from __future__ import annotations

from datetime import timedelta

import torch.distributed as dist

PATIENCE = timedelta(seconds=100)


class Events:
    """Named values, each set once. Every rank of a check makes one, in the same order."""

    def __init__(self) -> None:
        """Starts without any event, whatever earlier checks left in the store."""
        store = dist.distributed_c10d._get_default_store()
        number = store.add(f"events of rank {dist.get_rank()}", 1)
        self._store = dist.PrefixStore(f"events {number}", store)

    def set(self, name: str, value: object = "") -> None:
        """Announces an event to all ranks."""
        self._store.set(name, str(value))

    def wait(self, *names: str) -> None:
        """Waits until all these events have been announced."""
        self._store.wait(list(names), PATIENCE)

    def get(self, name: str) -> str:
        """Returns the value of an event, once it has been announced."""
        self.wait(name)
        value: bytes = self._store.get(name)
        return value.decode()


def survivors(missing: int) -> list[int]:
    """Returns all ranks but one."""
    return [rank for rank in range(dist.get_world_size()) if rank != missing]
