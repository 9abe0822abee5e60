"""What a model is trained for: from a model and a batch to a loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an objective says of one micro-batch.

    Attributes:
        loss: 0-dim, the mean over the samples of the micro-batch, with its graph.
        predictions: how many predictions were made (the tokens of a language model), or 0.
        correct: 0-dim, how many of them were right, or None where that has no meaning.
    """

    loss: Tensor
    predictions: int = 0
    correct: Tensor | None = None


Objective: TypeAlias = Callable[[nn.Module, Any], Outcome]


def classification(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Outcome:
    """Cross-entropy of a model that gives scores of classes.

    Args:
        model: maps inputs to scores of shape (..., classes).
        batch: inputs, and labels of shape (...): integers below the number of classes. With more
            than one label a sample (the tokens of a text), all samples must have equally many.
    """
    inputs, labels = batch
    scores = model(inputs)
    loss = nn.functional.cross_entropy(scores.flatten(0, -2), labels.flatten())
    correct = (scores.detach().argmax(-1) == labels).sum()
    return Outcome(loss, labels.numel(), correct)


class Tally:
    """Adds up outcomes over micro-batches, steps and ranks, in double precision on the device.

    One thread. `values` is (loss x samples, samples, predictions, predictions with a right or
    wrong, right ones): what ranks add up, and what a checkpoint keeps.
    """

    def __init__(self, device: torch.device) -> None:
        """Starts at zero."""
        self.values = torch.zeros(5, dtype=torch.float64, device=device)

    def add(self, outcome: Outcome, samples: int) -> None:
        """Adds the outcome of a micro-batch of that many samples."""
        self.values[0] += outcome.loss.detach().double() * samples
        self.values[1] += samples
        self.values[2] += outcome.predictions
        if outcome.correct is not None:
            self.values[3] += outcome.predictions
            self.values[4] += outcome.correct

    def summary(self) -> dict[str, float]:
        """Returns loss (the mean over samples), samples, predictions and, if judged, accuracy."""
        loss, samples, predictions, judged, correct = self.values.tolist()
        summary = {"loss": loss / samples, "samples": samples, "predictions": predictions}
        if judged > 0:
            summary["accuracy"] = correct / judged
        return summary
