"""Stopping when evaluations no longer improve."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass
class EarlyStop:
    """Counts evaluations without an improvement. A NaN is none.

    Attributes:
        patience: how many are borne, or None for any number.
        min_improvement: how much lower than the best a loss must be to count.
        best: the lowest loss that counted.
        stale: evaluations since then.
    """

    patience: int | None
    min_improvement: float
    best: float = math.inf
    stale: int = 0

    @property
    def stopped(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.stale >= self.patience

    def judge(self, loss: float) -> None:
        """Takes in the loss of an evaluation."""
        if loss < self.best - self.min_improvement:
            self.best, self.stale = loss, 0
        else:
            self.stale += 1
