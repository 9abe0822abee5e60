"""The ranks of a benchmark, with one process group per backend."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence

import torch
import torch.distributed as dist

from fastgpu_comm.bench.exchange import Exchange
from fastgpu_comm.gloo import ignore_environment


class Job:
    """This rank's process groups, by backend, and its exchange with the other ranks.

    Attributes:
        rank: This rank.
        world_size: The number of ranks.
        exchange: Passes values between the ranks without using the groups.
        groups: The process group of each backend.
    """

    def __init__(
        self, backends: Sequence[str], timeout: datetime.timedelta, device: str = "cpu"
    ) -> None:
        """Joins the job that the environment describes, as torchrun sets it.

        Args:
            backends: The backends to create a process group for.
            timeout: The time-out of each operation of the groups.
            device: The type of the devices. Ranks of a host take its GPUs in turn.
        """
        torch.set_num_threads(1)
        ignore_environment()  # fastgpu is compared with the real gloo
        store, self.rank, self.world_size = next(dist.rendezvous("env://"))
        # Longer than an operation's time-out, so that the exchange can report an operation's error.
        store.set_timeout(timeout * 2)
        self.exchange = Exchange(dist.PrefixStore("bench", store), self.rank, self.world_size)
        if device != "cpu":
            module = torch.get_device_module(device)
            local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
            module.set_device(local_rank % module.device_count())
        dist.init_process_group(
            backends[0] if device == "cpu" else _on_cpu(backends[0]),
            store=dist.PrefixStore("group", store),
            rank=self.rank,
            world_size=self.world_size,
            timeout=timeout,
        )
        self.groups: dict[str, dist.ProcessGroup] = {}
        for backend in backends:
            name = backend
            if device != "cpu":
                name = f"cpu:{_on_cpu(backend)},{device}:{backend}"
            self.groups[backend] = dist.new_group(backend=name, timeout=timeout)

    def leave(self) -> None:
        """Waits for all ranks and destroys the groups, which then are in nobody's hands.

        A group of gloo that outlives this could abort the process at its end: a thread of gloo that
        drops a tensor needs the interpreter.
        """
        self.exchange.all("done")
        self.groups.clear()
        dist.destroy_process_group()


def _on_cpu(backend: str) -> str:
    """Returns what serves CPU tensors beside a backend for GPUs, which may not."""
    return backend if backend in ("fastgpu", "gloo") else "gloo"
