"""The weights of a rank's forward passes, which DistributedDataParallel sums over the ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from fastgpu_comm import arguments, reduced

if TYPE_CHECKING:
    from fastgpu_comm.native import GradientReducer


class Weights:
    """Collects weights, and announces their sum with the forward pass that reduces.

    Not thread-safe: the thread of the model calls it.
    """

    def __init__(self) -> None:
        """Starts without a weight."""
        self._next: float | None = None  # weight of the next forward pass
        self._sum = 0.0  # sum of the weights under no_sync, until a pass that reduces
        self._announced = -1  # number of reductions at the last announcement
        self._missing = False  # the last forward pass reduces, and had no weight

    @property
    def is_set(self) -> bool:
        """Whether the next forward pass has a weight."""
        return self._next is not None

    def restart(self) -> None:
        """Forgets what was announced, as GradientReducer does for a new backend."""
        self._announced = -1
        self._missing = False

    def set(self, weight: Any) -> None:
        """Sets the weight of the next forward pass, or adds to it.

        Raises:
            TypeError: The weight is no number.
            ValueError: The weight is negative or not finite.
        """
        self._next = arguments.weight(weight) + (self._next or 0.0)

    def announce(self, gradients: GradientReducer, reduces: bool) -> None:
        """Starts the all-reduce of the weights, if the coming forward pass reduces."""
        self._missing = reduces and self._next is None
        if self._next is None:
            return
        self._sum, self._next = self._sum + self._next, None
        if reduces:
            gradients.announce_weight(self._sum)
            self._sum = 0.0
            self._announced = gradients.passes

    @torch._disable_dynamo(recursive=False)
    def check_before_backward(self, output: Any, gradients: GradientReducer) -> None:
        """Makes the backward pass of a model's output refuse to reduce without a weight.

        The hook would raise as well, but torch's Reducer is of no use after an error in a hook.
        """

        def check(gradient: Any) -> None:
            if self._announced != gradients.passes:  # not since the last reduction
                raise ValueError(
                    "this backward pass has no weight: with weighted=, call set_weight(n) before "
                    "the forward pass whose gradients are reduced, in eval mode too"
                )

        if self._missing:
            reduced.before_backward(output, check)
