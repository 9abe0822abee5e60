"""What the all-reduce of the gradients costs: time and bytes, as seen by this rank.

Time is taken by a communication hook of DistributedDataParallel that does what DDP itself does
(divide by the number of ranks, then all-reduce the bucket) and looks at the clock. Per backward
pass, in seconds of this rank:

    launch     t0 --- the call of all_reduce --- t1            the pass stands still meanwhile
    transfer   t0 ------------------------------------- t2     t2: the bucket's future completes

    in flight  length of the union of all [t0, t2]
    waited     sum of all t1 - t0, and the time from the last t1 to the last t2

`waited` is what training loses: communication that no computation hid. It includes waiting for
slower ranks. Buckets whose last gradients do not come at the very end of the pass make it an upper
bound. Not included: DDP's first broadcast, broadcasts of buffers, the sums of the metrics.
Host clocks say nothing about a GPU, so on one no time is reported.

Bytes are those the backend counted (all the group's traffic), where it counts: `fastgpu` does.
For others they are computed: 2 (n - 1) / n times the gradients' size for each all-reduce, what each
of n ranks sends in a ring or in a reduce-scatter followed by an all-gather.
"""

import dataclasses
import time
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import GradBucket
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

import fastgpu_comm


@dataclasses.dataclass
class Traffic:
    """Sums since the last look: seconds (None: not measured) and bytes sent by this rank."""

    in_flight_s: float | None
    waited_s: float | None
    bytes_sent: int
    counted: bool


class GradientTraffic:
    """Measures the all-reduces of a DistributedDataParallel model.

    Futures complete on threads of the backend, which only append to a list; all else is the
    training thread's. A model that has a communication hook of its own keeps it and is not timed.
    """

    def __init__(self, model: DistributedDataParallel) -> None:
        """Hooks into the model, which must not have run a backward pass yet."""
        self._group = model.process_group
        self._world = dist.get_world_size(self._group)
        gradients = [p for p in model.parameters() if p.requires_grad]
        self._size_bytes = sum(p.numel() * p.element_size() for p in gradients)
        self._launches: list[tuple[float, float]] = []
        self._completions: list[tuple[float, float]] = []
        self._in_flight_s = 0.0
        self._waited_s = 0.0
        self._rounds = 0
        self._counter = _bytes_counted(self._group)
        self._timed = gradients[0].device.type == "cpu" and self._register(model)

    def after_backward(self) -> None:
        """Takes in a backward pass that synchronised gradients."""
        self._rounds += 1
        if not self._launches:
            return
        last_launch = max(end for _, end in self._launches)
        last_completion = max(end for _, end in self._completions)
        self._waited_s += sum(end - start for start, end in self._launches)
        self._waited_s += max(0.0, last_completion - last_launch)
        self._in_flight_s += union_s(self._completions)
        self._launches.clear()
        self._completions.clear()

    def take(self) -> Traffic:
        """Returns the sums since the last call and starts again from zero."""
        counter = _bytes_counted(self._group)
        if counter is not None and self._counter is not None:
            bytes_sent = counter - self._counter
        else:
            ring_bytes = 2 * (self._world - 1) * self._size_bytes // self._world
            bytes_sent = self._rounds * ring_bytes
        traffic = Traffic(
            self._in_flight_s if self._timed else None,
            self._waited_s if self._timed else None,
            bytes_sent,
            counted=counter is not None,
        )
        self._counter = counter
        self._in_flight_s, self._waited_s, self._rounds = 0.0, 0.0, 0
        return traffic

    def _register(self, model: DistributedDataParallel) -> bool:
        try:
            model.register_comm_hook(state=None, hook=self._all_reduce)
        except RuntimeError as error:
            if "can only be called once" in str(error):
                return False
            raise
        return True

    def _all_reduce(self, _: object, bucket: GradBucket) -> Future[torch.Tensor]:
        start = time.perf_counter()
        gradients = bucket.buffer().div_(self._world)
        work: Any = dist.all_reduce(gradients, group=self._group, async_op=True)
        self._launches.append((start, time.perf_counter()))

        def complete(future: Future[list[torch.Tensor]]) -> torch.Tensor:
            self._completions.append((start, time.perf_counter()))
            return future.value()[0]

        reduced: Future[torch.Tensor] = work.get_future().then(complete)
        return reduced


def union_s(intervals: list[tuple[float, float]]) -> float:
    """Returns the time that the intervals (start, end) cover together."""
    total, reached = 0.0, 0.0
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _bytes_counted(group: Any) -> int | None:
    """Returns the bytes that this rank has sent in the group, if its backend counts them."""
    if dist.get_backend(group) != "fastgpu":
        return None
    return int(fastgpu_comm.stats(group)["bytes_sent"])
