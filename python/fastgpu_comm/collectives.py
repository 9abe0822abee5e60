"""The collectives and reductions that `fastgpu-comm bench` and `fastgpu-comm simulate` offer.

Sizes and bandwidths are those of nccl-tests (its doc/PERFORMANCE.md): `size` is the largest buffer
of a call, `count` the number of elements that a rank passes to it, algbw = size / time, and
busbw = algbw x a factor that makes bandwidths comparable for any number of ranks.

This module does not import torch, because the command line reads it for `--help`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Collective:
    """The meaning of a collective's `count`, and how its speed is computed.

    Attributes:
        has_data: It has a buffer; a barrier has none.
        count_is_share: `count` is one rank's share of the largest buffer; else all of the buffer.
        reduces: It takes a reduction, such as "sum".
        rooted: It has a root rank.
        synchronizes: No rank can return before every rank has called.
        ring_passes: How often a ring sends each byte round: busbw is algbw x ring_passes x (n-1)/n
            for n ranks. 0 means that busbw is algbw.
        placements: The variants that torch offers: out of place, in place.
        has_schedule: The library runs it as a schedule, which can be simulated.
    """

    has_data: bool = True
    count_is_share: bool = False
    reduces: bool = False
    rooted: bool = False
    synchronizes: bool = True
    ring_passes: int = 0
    placements: tuple[str, ...] = ("in",)
    has_schedule: bool = True

    def bus_factor(self, world_size: int) -> float:
        """Returns busbw / algbw."""
        return self.ring_passes * (world_size - 1) / world_size if self.ring_passes else 1.0

    def count(self, size_bytes: int, element_size: int, world_size: int) -> int:
        """Returns the `count` for which the largest buffer has `size_bytes`, rounded down."""
        if not self.has_data:
            return 0
        return size_bytes // element_size // (world_size if self.count_is_share else 1)

    def size_bytes(self, count: int, element_size: int, world_size: int) -> int:
        """Returns the size of the largest buffer when each rank passes `count` elements."""
        return count * element_size * (world_size if self.count_is_share else 1)


COLLECTIVES = {
    "all_reduce": Collective(reduces=True, ring_passes=2),
    "all_gather": Collective(count_is_share=True, ring_passes=1, placements=("out", "in")),
    "reduce_scatter": Collective(
        count_is_share=True, reduces=True, ring_passes=1, placements=("out", "in")
    ),
    "broadcast": Collective(rooted=True, synchronizes=False),
    "reduce": Collective(reduces=True, rooted=True, synchronizes=False),
    "gather": Collective(
        count_is_share=True, rooted=True, synchronizes=False, ring_passes=1, placements=("out",)
    ),
    "scatter": Collective(
        count_is_share=True, rooted=True, synchronizes=False, ring_passes=1, placements=("out",)
    ),
    "all_to_all": Collective(count_is_share=True, ring_passes=1, placements=("out",)),
    "send_recv": Collective(placements=("out",), has_schedule=False),
    "barrier": Collective(has_data=False),
}


class Reduction(NamedTuple):
    """A reduction: its name in torch.distributed.ReduceOp, and torch's function for two tensors."""

    torch_op: str
    combine: str


REDUCTIONS = {
    "sum": Reduction("SUM", "add"),
    "avg": Reduction("AVG", "add"),  # divided by the number of ranks at the end
    "prod": Reduction("PRODUCT", "mul"),
    "min": Reduction("MIN", "minimum"),
    "max": Reduction("MAX", "maximum"),
    "band": Reduction("BAND", "bitwise_and"),
    "bor": Reduction("BOR", "bitwise_or"),
    "bxor": Reduction("BXOR", "bitwise_xor"),
}
