"""What each collective does to which buffers, what must come out, and how its speed is counted.

The sizes and factors are nccl-tests': `size` is the largest buffer of a call, `count` the elements
a rank names in the call, algbw = size / time, busbw = algbw x a factor that makes the number
comparable with the speed of the links whatever the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from fastgpu_comm.bench import data

REDUCE_OPS = {
    "sum": dist.ReduceOp.SUM,
    "avg": dist.ReduceOp.AVG,
    "prod": dist.ReduceOp.PRODUCT,
    "min": dist.ReduceOp.MIN,
    "max": dist.ReduceOp.MAX,
    "band": dist.ReduceOp.BAND,
    "bor": dist.ReduceOp.BOR,
    "bxor": dist.ReduceOp.BXOR,
}

# torch 2.13 renamed these two.
ALL_GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
REDUCE_SCATTER = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@dataclass(frozen=True)
class Case:
    """One call to measure: everything but the backend's name."""

    group: dist.ProcessGroup
    rank: int
    world_size: int
    root: int
    dtype: torch.dtype
    reduction: str  # "none" where nothing is reduced
    count: int
    in_place: bool

    @property
    def operation(self) -> dist.ReduceOp.RedOpType:
        """The reduction as torch names it."""
        return REDUCE_OPS[self.reduction]

    def buffer(self, shares: int = 1) -> torch.Tensor:
        """Returns a zeroed buffer of `shares` times `count` elements."""
        return torch.zeros(self.count * shares, dtype=self.dtype)

    def share(self, whole: torch.Tensor, rank: int) -> torch.Tensor:
        """Returns the part of `whole` that belongs to `rank`, as a view."""
        return whole[rank * self.count : (rank + 1) * self.count]

    def input_of(self, rank: int) -> torch.Tensor:
        """Returns one period of `rank`'s input."""
        return data.period(rank, self.world_size, self.reduction, self.dtype)

    def reduced(self) -> torch.Tensor:
        """Returns one period of the reduction of every rank's input."""
        return data.reduced_period(self.world_size, self.reduction, self.dtype)


@dataclass(frozen=True)
class Content:
    """What a tensor should hold: a period, repeated, from element `start` of it on."""

    tensor: torch.Tensor
    period: torch.Tensor
    start: int = 0

    def values(self) -> torch.Tensor:
        """Returns what the tensor should hold."""
        return data.stretch(self.period, self.start, self.tensor.numel(), self.tensor.dtype)


@dataclass(frozen=True)
class Call:
    """A call ready to be made: its inputs' contents, the call, and what must come out here."""

    run: Callable[[], object]
    inputs: list[Content] = field(default_factory=list)
    outputs: list[Content] = field(default_factory=list)

    def fill(self) -> None:
        """Writes the inputs."""
        for content in self.inputs:
            content.tensor.copy_(content.values())

    def count_wrong(self, tolerance: float) -> int:
        """Returns how many elements of the outputs are not what they must be."""
        return sum(data.count_wrong(out.tensor, out.values(), tolerance) for out in self.outputs)


def all_reduce(case: Case) -> Call:
    """Every rank ends with the reduction of all ranks' tensors."""
    tensor = case.buffer()
    return Call(
        lambda: dist.all_reduce(tensor, case.operation, case.group),
        [Content(tensor, case.input_of(case.rank))],
        [Content(tensor, case.reduced())],
    )


def broadcast(case: Case) -> Call:
    """Every rank ends with the root's tensor."""
    tensor = case.buffer()
    return Call(
        lambda: dist.broadcast(tensor, case.root, case.group),
        [Content(tensor, case.input_of(case.rank))],
        [Content(tensor, case.input_of(case.root))],
    )


def reduce(case: Case) -> Call:
    """The root ends with the reduction of all ranks' tensors."""
    tensor = case.buffer()
    return Call(
        lambda: dist.reduce(tensor, case.root, case.operation, case.group),
        [Content(tensor, case.input_of(case.rank))],
        [Content(tensor, case.reduced())] if case.rank == case.root else [],
    )


def all_gather(case: Case) -> Call:
    """Every rank ends with all ranks' tensors, in rank order."""
    whole = case.buffer(case.world_size)
    mine = case.share(whole, case.rank) if case.in_place else case.buffer()
    return Call(
        lambda: ALL_GATHER(whole, mine, case.group),
        [Content(mine, case.input_of(case.rank))],
        [Content(case.share(whole, r), case.input_of(r)) for r in range(case.world_size)],
    )


def reduce_scatter(case: Case) -> Call:
    """Rank r ends with share r of the reduction of all ranks' tensors."""
    whole = case.buffer(case.world_size)
    mine = case.share(whole, case.rank) if case.in_place else case.buffer()
    return Call(
        lambda: REDUCE_SCATTER(mine, whole, case.operation, case.group),
        [Content(whole, case.input_of(case.rank))],
        [Content(mine, case.reduced(), case.rank * case.count)],
    )


def gather(case: Case) -> Call:
    """The root ends with all ranks' tensors."""
    mine = case.buffer()
    shares = None
    outputs = []
    if case.rank == case.root:
        whole = case.buffer(case.world_size)
        shares = [case.share(whole, r) for r in range(case.world_size)]
        outputs = [Content(share, case.input_of(r)) for r, share in enumerate(shares)]
    return Call(
        lambda: dist.gather(mine, shares, case.root, case.group),
        [Content(mine, case.input_of(case.rank))],
        outputs,
    )


def scatter(case: Case) -> Call:
    """Rank r ends with share r of the root's tensor."""
    mine = case.buffer()
    shares = None
    inputs = []
    if case.rank == case.root:
        whole = case.buffer(case.world_size)
        shares = [case.share(whole, r) for r in range(case.world_size)]
        inputs = [Content(whole, case.input_of(case.root))]
    return Call(
        lambda: dist.scatter(mine, shares, case.root, case.group),
        inputs,
        [Content(mine, case.input_of(case.root), case.rank * case.count)],
    )


def all_to_all(case: Case) -> Call:
    """Rank r ends with share r of every rank's tensor, in rank order."""
    sent, received = case.buffer(case.world_size), case.buffer(case.world_size)
    start = case.rank * case.count
    return Call(
        lambda: dist.all_to_all_single(received, sent, group=case.group),
        [Content(sent, case.input_of(case.rank))],
        [Content(case.share(received, r), case.input_of(r), start) for r in range(case.world_size)],
    )


def send_recv(case: Case) -> Call:
    """Each rank sends to the next and receives from the one before."""
    sent, received = case.buffer(), case.buffer()
    following = (case.rank + 1) % case.world_size
    before = (case.rank - 1) % case.world_size

    def exchange() -> None:
        operations = [
            dist.P2POp(dist.isend, sent, following, case.group),
            dist.P2POp(dist.irecv, received, before, case.group),
        ]
        for work in dist.batch_isend_irecv(operations):
            work.wait()

    return Call(
        exchange,
        [Content(sent, case.input_of(case.rank))],
        [Content(received, case.input_of(before))],
    )


def barrier(case: Case) -> Call:
    """No rank leaves before every rank has come."""
    return Call(lambda: dist.barrier(case.group))


@dataclass(frozen=True)
class Collective:
    """How a collective is prepared, and how its size and speed are counted."""

    prepare: Callable[[Case], Call]
    placements: tuple[str, ...] = (
        "in",
    )  # those that torch's interface has: out of place, in place
    reduces: bool = False
    rooted: bool = False
    of_shares: bool = False  # its largest buffer is the number of ranks times `count`
    ring_passes: int = 0  # busbw is algbw x this x (n-1)/n; 0: it is algbw
    meets: bool = True  # no rank can leave before every rank has come

    def bus_factor(self, world_size: int) -> float:
        """Returns busbw / algbw."""
        return self.ring_passes * (world_size - 1) / world_size if self.ring_passes else 1.0

    def count(self, size_bytes: int, dtype: torch.dtype, world_size: int) -> int:
        """Returns the elements a rank names when the largest buffer is to have `size_bytes`."""
        return size_bytes // dtype.itemsize // (world_size if self.of_shares else 1)

    def size_bytes(self, count: int, dtype: torch.dtype, world_size: int) -> int:
        """Returns the size of the largest buffer when each rank names `count` elements."""
        return count * dtype.itemsize * (world_size if self.of_shares else 1)


COLLECTIVES = {
    "all_reduce": Collective(all_reduce, reduces=True, ring_passes=2),
    "all_gather": Collective(all_gather, ("out", "in"), of_shares=True, ring_passes=1),
    "reduce_scatter": Collective(
        reduce_scatter, ("out", "in"), reduces=True, of_shares=True, ring_passes=1
    ),
    "broadcast": Collective(broadcast, rooted=True, meets=False),
    "reduce": Collective(reduce, reduces=True, rooted=True, meets=False),
    "gather": Collective(gather, ("out",), rooted=True, of_shares=True, ring_passes=1, meets=False),
    "scatter": Collective(
        scatter, ("out",), rooted=True, of_shares=True, ring_passes=1, meets=False
    ),
    "all_to_all": Collective(all_to_all, ("out",), of_shares=True, ring_passes=1),
    "send_recv": Collective(send_recv, ("out",)),
    "barrier": Collective(barrier),
}
