"""Stops a run when its evaluations no longer improve."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass
class EarlyStop:
    """Counts evaluations without an improvement. A loss of NaN is not an improvement.

    Attributes:
        patience: After how many such evaluations to stop; None never stops.
        min_improvement: How much lower than `best` a loss must be to count as an improvement.
        best: The loss of the last improvement.
        stale: The number of evaluations since the last improvement.
    """

    patience: int | None
    min_improvement: float
    best: float = math.inf
    stale: int = 0

    @property
    def stopped(self) -> bool:
        """Whether to stop."""
        return self.patience is not None and self.stale >= self.patience

    def judge(self, loss: float) -> None:
        """Counts an evaluation with this loss."""
        if loss < self.best - self.min_improvement:
            self.best, self.stale = loss, 0
        else:
            self.stale += 1
