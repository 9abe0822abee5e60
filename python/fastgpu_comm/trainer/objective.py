"""Objectives: functions from a model and a batch to a loss."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of an objective for one micro-batch.

    Attributes:
        loss: The mean loss over the samples, or over what `Datasets.weigh` counts: a tensor of
            shape () with its autograd graph.
        predictions: The number of predictions, such as the tokens of a language model, or 0.
        correct: The number of correct predictions, a tensor of shape (), or None if undefined.
    """

    loss: Tensor
    predictions: int = 0
    correct: Tensor | None = None


Objective: TypeAlias = Callable[[nn.Module, Any], Outcome]


def classification(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Outcome:
    """An objective: the cross-entropy of a model's scores, in nats.

    Args:
        model: Maps inputs to scores of shape (..., classes).
        batch: The inputs, and int64 labels of shape (...) below the number of classes. If samples
            have several labels, such as the tokens of a text, all must have the same number.
    """
    inputs, labels = batch
    scores = model(inputs)
    loss = nn.functional.cross_entropy(scores.flatten(0, -2), labels.flatten())
    correct = (scores.detach().argmax(-1) == labels).sum()
    return Outcome(loss, labels.numel(), correct)


class Tally:
    """Sums outcomes over micro-batches, steps and ranks, in float64 on the device.

    One thread. The entries of `values`, which the ranks sum, are: loss x weight, weight, samples,
    predictions, predictions that could be correct or wrong, and correct predictions.
    """

    def __init__(self, device: torch.device) -> None:
        """Starts at zero."""
        self.values = torch.zeros(6, dtype=torch.float64, device=device)

    def add(self, outcome: Outcome, samples: int, weight: float) -> None:
        """Adds the outcome of a micro-batch with so many samples; the loss counts by weight."""
        if weight:  # else the loss may be NaN
            self.values[0] += outcome.loss.detach().double() * weight
        self.values[1] += weight
        self.values[2] += samples
        self.values[3] += outcome.predictions
        if outcome.correct is not None:
            self.values[4] += outcome.predictions
            self.values[5] += outcome.correct

    def summary(self) -> dict[str, float]:
        """Returns the mean loss, samples, predictions and, if any were judged, accuracy."""
        loss, weight, samples, predictions, judged, correct = self.values.tolist()
        mean = loss / weight if weight else math.nan
        summary = {"loss": mean, "samples": samples, "predictions": predictions}
        if judged > 0:
            summary["accuracy"] = correct / judged
        return summary
