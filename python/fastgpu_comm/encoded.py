"""Sums over the ranks of any process group, with encoded data on the wire.

All ranks end with the same bits. Each adds up a share of the data in float32, so an element is
rounded twice for any number of ranks: before it is sent to its share's rank, and as a sum.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from fastgpu_comm.codecs import Codec, derived_key

# torch 2.13 deprecates the second name.
ALL_GATHER: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class EncodedSum:
    """A running sum. The constructor waits for the first of two exchanges and starts the second.

    Attributes:
        bytes_sent: How many bytes this rank sends.
        work: The second exchange.
    """

    def __init__(
        self,
        flat: torch.Tensor,
        codec: Codec,
        group: Any,
        residual: torch.Tensor | None,
        number: int,
    ) -> None:
        """Starts it. A collective.

        Args:
            flat: This rank's data, float32 on the CPU, its length a multiple of the number of
                ranks. finish() writes the sum into it.
            codec: How the data travels.
            group: The process group.
            residual: For error feedback, of the same length: it is added to the data, and becomes
                what this rank's encoding took from its data and from the sum of its share.
            number: Of the sum: with stochastic rounding each number has other random bits.
        """
        world, rank = group.size(), group.rank()
        self._codec = codec
        self._shares = flat.view(world, -1)
        errors: Any = [None] * world if residual is None else residual.view(world, -1)
        share = self._shares.shape[1]

        def encode(values: torch.Tensor, owner: int) -> torch.Tensor:
            return codec.encode(values, errors[owner], key=derived_key(number, rank, owner))

        # This rank's own part of its share is not rounded, so zeros travel.
        zeros = codec.encode(torch.zeros(share, dtype=torch.float32))
        outgoing = torch.cat(
            [zeros if peer == rank else encode(self._shares[peer], peer) for peer in range(world)]
        )
        incoming = torch.empty_like(outgoing)
        dist.all_to_all_single(incoming, outgoing, group=group)
        total = torch.zeros(share, dtype=torch.float32)
        for peer, part in enumerate(incoming.view(world, -1)):
            if peer == rank:
                total.add_(self._shares[rank])
            else:
                codec.decode(part, total, add=True)
        mine = encode(total, rank)
        self._sums = torch.empty(mine.numel() * world, dtype=torch.uint8)
        self.bytes_sent = 2 * (world - 1) * mine.numel()
        self.work: Any = ALL_GATHER(self._sums, mine, group=group, async_op=True)

    def finish(self) -> None:
        """Decodes the sum, after `work` has completed."""
        parts = self._sums.view(len(self._shares), -1)
        for target, part in zip(self._shares, parts, strict=True):
            self._codec.decode(part, target)
