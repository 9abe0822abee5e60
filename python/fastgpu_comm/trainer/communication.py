"""Measures the time and the bytes of the gradients' all-reduce on this rank.

A communication hook of DistributedDataParallel takes the times. It averages the bucket over the
ranks, as DDP does by default. A model with a codec or weights measures itself
(`fastgpu_comm.DistributedDataParallel.stats`). For each backward pass:

    launch     t0 --- the call of all_reduce --- t1            the pass is blocked
    transfer   t0 ------------------------------------- t2     t2: the bucket's future completes

    in flight  length of the union of all [t0, t2]
    waited     sum of all t1 - t0, plus the time from the last t1 to the last t2

`waited` is the time that training loses: communication exposed, not hidden behind computation. It
includes waiting for slower ranks. It is an upper bound if the last bucket is ready before the pass
ends. It excludes DDP's first broadcast, the broadcasts of buffers, and the sums of the metrics.
On a GPU no time is reported, because host clocks do not see when its kernels run.

The backend `fastgpu` counts the bytes of the whole group. For other backends they are computed:
each of n ranks sends 2 (n - 1) / n times the gradients' size per all-reduce, as in a ring or in a
reduce-scatter followed by an all-gather.
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
    """The sums over some backward passes, on this rank.

    Attributes:
        in_flight_s: Seconds with an all-reduce in flight, or None if not measured.
        waited_s: Seconds of exposed communication, or None if not measured.
        bytes_sent: Bytes that this rank sent.
        counted: The backend counted the bytes; else they are computed.
        gradient_bytes: Bytes of the gradients that were reduced, uncompressed; 0 on a single rank.
            None with a communication hook of the user's, as is `encoded_bytes`.
        encoded_bytes: The size of the encoded gradients; without a codec, `gradient_bytes`.
    """

    in_flight_s: float | None
    waited_s: float | None
    bytes_sent: int
    counted: bool
    gradient_bytes: int | None
    encoded_bytes: int | None


class GradientTraffic:
    """Measures the all-reduces of a DistributedDataParallel model.

    All methods are called by the training thread. Futures complete on the backend's threads, which
    only append to a list. A model that already has a communication hook keeps it and is not timed.
    """

    def __init__(self, model: DistributedDataParallel) -> None:
        """Registers the hook; the model must not have run a backward pass yet."""
        self._group = model.process_group
        self._world = dist.get_world_size(self._group)
        gradients = [p for p in model.parameters() if p.requires_grad]
        self._size_bytes = sum(p.numel() * p.element_size() for p in gradients)
        self._launches: list[tuple[float, float]] = []
        self._completions: list[tuple[float, float]] = []
        self._in_flight_s = 0.0
        self._waited_s = 0.0
        self._rounds = 0
        self._encoded_bytes = 0
        self._counter = _bytes_counted(self._group)
        self._measured: fastgpu_comm.DistributedDataParallel | None = None
        if isinstance(model, fastgpu_comm.DistributedDataParallel) and model.measures:
            self._measured = model
        hooked = bool(model._get_ddp_logging_data().get("comm_hook"))
        self._sized = self._measured is not None or not hooked
        on_cpu = gradients[0].device.type == "cpu"
        self._timed = on_cpu and (self._measured is not None or self._register(model))

    def after_backward(self) -> None:
        """Adds the times of a backward pass that all-reduced the gradients."""
        self._rounds += 1
        if self._measured is None:
            self._encoded_bytes += self._size_bytes
        for bucket in self._measured.stats() if self._measured is not None else []:
            self._encoded_bytes += bucket["encoded_bytes"]
            self._launches.append((bucket["launched_s"], bucket["launched_s"]))
            self._completions.append((bucket["launched_s"], bucket["done_s"]))
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
        """Returns the sums since the last call and resets them."""
        counter = _bytes_counted(self._group)
        if counter is not None and self._counter is not None:
            bytes_sent = counter - self._counter
        else:
            ring_bytes = 2 * (self._world - 1) * self._size_bytes // self._world
            bytes_sent = self._rounds * ring_bytes
        travels = self._world > 1
        traffic = Traffic(
            self._in_flight_s if self._timed else None,
            self._waited_s if self._timed else None,
            bytes_sent,
            counted=counter is not None,
            gradient_bytes=travels * self._rounds * self._size_bytes if self._sized else None,
            encoded_bytes=travels * self._encoded_bytes if self._sized else None,
        )
        self._counter = counter
        self._in_flight_s, self._waited_s = 0.0, 0.0
        self._rounds = self._encoded_bytes = 0
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
        gradients, op = bucket.buffer(), dist.ReduceOp.AVG
        if self._counter is None:  # gloo, which has no AVG
            gradients.div_(self._world)
            op = dist.ReduceOp.SUM
        work: Any = dist.all_reduce(gradients, op, group=self._group, async_op=True)
        self._launches.append((start, time.perf_counter()))

        def complete(future: Future[list[torch.Tensor]]) -> torch.Tensor:
            self._completions.append((start, time.perf_counter()))
            return future.value()[0]

        reduced: Future[torch.Tensor] = work.get_future().then(complete)
        return reduced


def union_s(intervals: list[tuple[float, float]]) -> float:
    """Returns the length of the union of intervals (start, end)."""
    total, reached = 0.0, 0.0
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _bytes_counted(group: Any) -> int | None:
    """Returns the bytes this rank has sent in the group, or None if its backend does not count."""
    if dist.get_backend(group) != "fastgpu":
        return None
    return int(fastgpu_comm.stats(group)["bytes_sent"])
