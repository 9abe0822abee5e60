"""Prepares the call of each collective: its buffers, their contents and the expected results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from fastgpu_comm.bench import data
from fastgpu_comm.collectives import REDUCTIONS

# torch 2.13 renamed these two.
ALL_GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
REDUCE_SCATTER = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@dataclass(frozen=True)
class Case:
    """The arguments of one call."""

    group: dist.ProcessGroup
    rank: int
    world_size: int
    root: int
    dtype: torch.dtype
    reduction: str  # "none" if the collective does not reduce
    count: int
    in_place: bool
    device: str = "cpu"

    @property
    def operation(self) -> dist.ReduceOp.RedOpType:
        """The reduction as torch names it."""
        operation: dist.ReduceOp.RedOpType = getattr(
            dist.ReduceOp, REDUCTIONS[self.reduction].torch_op
        )
        return operation

    def buffer(self, shares: int = 1) -> torch.Tensor:
        """Returns a zeroed buffer of `shares` times `count` elements."""
        return torch.zeros(self.count * shares, dtype=self.dtype, device=self.device)

    def share(self, whole: torch.Tensor, rank: int) -> torch.Tensor:
        """Returns the part of `whole` that belongs to `rank`, as a view."""
        return whole[rank * self.count : (rank + 1) * self.count]

    def input_of(self, rank: int) -> torch.Tensor:
        """Returns one period of `rank`'s input."""
        return data.period(rank, self.world_size, self.reduction, self.dtype)

    def reduced(self) -> torch.Tensor:
        """Returns one period of the reduction over all ranks' inputs."""
        return data.reduced_period(self.world_size, self.reduction, self.dtype)


@dataclass(frozen=True)
class Content:
    """The values that a tensor should hold: `period`, repeated, from its element `start` on."""

    tensor: torch.Tensor
    period: torch.Tensor
    start: int = 0

    def values(self) -> torch.Tensor:
        """Returns the values."""
        return data.stretch(self.period, self.start, self.tensor.numel(), self.tensor.dtype)


@dataclass(frozen=True)
class Call:
    """A prepared call: its inputs, the call itself, and the outputs expected on this rank."""

    run: Callable[[], object]
    inputs: list[Content] = field(default_factory=list)
    outputs: list[Content] = field(default_factory=list)

    def check(self, tolerance: float) -> int:
        """Fills the inputs, runs the call, and returns the number of wrong output elements.

        Afterwards the inputs are zero, so that repeated in-place reductions do not overflow.
        """
        for content in self.inputs:
            content.tensor.copy_(content.values())
        self.run()
        wrong = sum(
            data.count_wrong(content.tensor.cpu(), content.values(), tolerance)
            for content in self.outputs
        )
        for content in self.inputs:
            content.tensor.zero_()
        return wrong


# By name of the collective; each function below adds itself.
PREPARE: dict[str, Callable[[Case], Call]] = {}


def prepares(function: Callable[[Case], Call]) -> Callable[[Case], Call]:
    """Marks the function that prepares the collective of its name."""
    PREPARE[function.__name__] = function
    return function


@prepares
def all_reduce(case: Case) -> Call:
    """Every rank ends with the reduction of all ranks' tensors."""
    tensor = case.buffer()
    return Call(
        lambda: dist.all_reduce(tensor, case.operation, case.group),
        [Content(tensor, case.input_of(case.rank))],
        [Content(tensor, case.reduced())],
    )


@prepares
def broadcast(case: Case) -> Call:
    """Every rank ends with the root's tensor."""
    tensor = case.buffer()
    return Call(
        lambda: dist.broadcast(tensor, case.root, case.group),
        [Content(tensor, case.input_of(case.rank))],
        [Content(tensor, case.input_of(case.root))],
    )


@prepares
def reduce(case: Case) -> Call:
    """The root ends with the reduction of all ranks' tensors."""
    tensor = case.buffer()
    return Call(
        lambda: dist.reduce(tensor, case.root, case.operation, case.group),
        [Content(tensor, case.input_of(case.rank))],
        [Content(tensor, case.reduced())] if case.rank == case.root else [],
    )


@prepares
def all_gather(case: Case) -> Call:
    """Every rank ends with all ranks' tensors, in rank order."""
    whole = case.buffer(case.world_size)
    mine = case.share(whole, case.rank) if case.in_place else case.buffer()
    return Call(
        lambda: ALL_GATHER(whole, mine, case.group),
        [Content(mine, case.input_of(case.rank))],
        [Content(case.share(whole, r), case.input_of(r)) for r in range(case.world_size)],
    )


@prepares
def reduce_scatter(case: Case) -> Call:
    """Rank r ends with share r of the reduction of all ranks' tensors."""
    whole = case.buffer(case.world_size)
    mine = case.share(whole, case.rank) if case.in_place else case.buffer()
    return Call(
        lambda: REDUCE_SCATTER(mine, whole, case.operation, case.group),
        [Content(whole, case.input_of(case.rank))],
        [Content(mine, case.reduced(), case.rank * case.count)],
    )


@prepares
def gather(case: Case) -> Call:
    """The root ends with all ranks' tensors, in rank order."""
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


@prepares
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


@prepares
def all_to_all(case: Case) -> Call:
    """Rank r ends with share r of every rank's tensor, in rank order."""
    sent, received = case.buffer(case.world_size), case.buffer(case.world_size)
    start = case.rank * case.count
    return Call(
        lambda: dist.all_to_all_single(received, sent, group=case.group),
        [Content(sent, case.input_of(case.rank))],
        [Content(case.share(received, r), case.input_of(r), start) for r in range(case.world_size)],
    )


@prepares
def send_recv(case: Case) -> Call:
    """Each rank sends to the next rank and receives from the previous one."""
    sent, received = case.buffer(), case.buffer()
    following = (case.rank + 1) % case.world_size
    previous = (case.rank - 1) % case.world_size

    def exchange() -> None:
        operations = [
            dist.P2POp(dist.isend, sent, following, case.group),
            dist.P2POp(dist.irecv, received, previous, case.group),
        ]
        for work in dist.batch_isend_irecv(operations):
            work.wait()

    return Call(
        exchange,
        [Content(sent, case.input_of(case.rank))],
        [Content(received, case.input_of(previous))],
    )


@prepares
def barrier(case: Case) -> Call:
    """No rank returns before every rank has called."""
    return Call(lambda: dist.barrier(case.group))
