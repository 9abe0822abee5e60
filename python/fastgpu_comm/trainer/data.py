"""The samples that a rank trains on, their order, and how they become a batch.

The order depends on the seed only, so a step trains on the same samples for any number of ranks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import default_collate


class MapDataset(Protocol):
    """A dataset with a length and samples by index.

    If it has `__getitems__(indices)`, a batch is read with that.
    """

    def __len__(self) -> int:
        """Returns the number of samples."""

    def __getitem__(self, index: int, /) -> Any:
        """Returns the sample at `index`."""


@dataclasses.dataclass(frozen=True)
class Datasets:
    """The data of a run: for training, for evaluation, and how samples become a batch.

    Attributes:
        train: The training data, the same on every rank.
        evaluation: The evaluation data, the same on every rank; None for no evaluation.
        collate: Makes a batch from a list of samples. The batch's tensors, also in tuples, lists
            and dicts, are then moved to the model's device.
        weigh: Returns how many terms a batch's loss is the mean of, such as its tokens that are no
            padding: the batches of all ranks get these weights. None for the number of samples.
            Over several ranks it needs the backend `fastgpu`, and a model that the trainer wraps.
    """

    train: MapDataset
    evaluation: MapDataset | None = None
    collate: Callable[[list[Any]], Any] = default_collate
    weigh: Callable[[Any], float] | None = None

    def __post_init__(self) -> None:
        """Checks that the datasets have samples.

        Raises:
            ValueError: A dataset is empty.
        """
        for name in ("train", "evaluation"):
            dataset = getattr(self, name)
            if dataset is not None and len(dataset) == 0:
                raise ValueError(f"Datasets.{name} is empty; it must have at least one sample.")

    def fetch(self, dataset: MapDataset, indices: Sequence[int], device: torch.device) -> Any:
        """Returns the samples at `indices` as a batch on the device."""
        if hasattr(dataset, "__getitems__"):
            samples = dataset.__getitems__(list(indices))
        else:
            samples = [dataset[index] for index in indices]
        return _move(self.collate(samples), device)

    def weight(self, batch: Any, samples: int) -> float:
        """Returns the weight of a batch of so many samples."""
        return samples if self.weigh is None else float(self.weigh(batch))


class BatchOrder:
    """An endless sequence of batches of indices. Each epoch is a new permutation of all samples.

    One thread. A checkpoint saves the position, so that a resumed run continues exactly there.
    """

    def __init__(self, samples: int, batch_size: int, seed: int) -> None:
        """Starts before the first batch of the first epoch."""
        self._samples = samples
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0
        self._used = 0
        self._permutation = self._permute()

    @property
    def epochs(self) -> float:
        """The number of epochs returned so far, a fraction within an epoch."""
        return self._epoch + self._used / self._samples

    def next(self) -> list[int]:
        """Returns the next batch; the last batch of an epoch may be smaller."""
        if self._used == self._samples:
            self._epoch += 1
            self._used = 0
            self._permutation = self._permute()
        batch = self._permutation[self._used : self._used + self._batch_size]
        self._used += len(batch)
        return batch

    def state_dict(self) -> dict[str, int]:
        """Returns the position, and the arguments that define the order."""
        return {
            "samples": self._samples,
            "batch_size": self._batch_size,
            "seed": self._seed,
            "epoch": self._epoch,
            "used": self._used,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Moves to a saved position.

        Raises:
            ValueError: The position belongs to another order of samples.
        """
        for name, mine in (
            ("samples", self._samples),
            ("batch_size", self._batch_size),
            ("seed", self._seed),
        ):
            if state[name] != mine:
                raise ValueError(
                    f"The checkpoint was written with {name} {state[name]}, this run has {mine}: "
                    f"the order of samples would differ. Resume with {name} {state[name]}, or "
                    "start a new run in another folder."
                )
        self._epoch, self._used = state["epoch"], state["used"]
        self._permutation = self._permute()

    def _permute(self) -> list[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order: list[int] = torch.randperm(self._samples, generator=generator).tolist()
        return order


def micro_batches(batch: Sequence[int], rank: int, world: int, count: int) -> list[list[int]]:
    """Splits a rank's part of a batch into at most `count` micro-batches, none of them empty.

    The result is empty if the batch has fewer samples than ranks and none for this rank.
    """
    mine = batch[rank::world]
    pieces = (list(mine[piece::count]) for piece in range(count))
    return [piece for piece in pieces if piece]


def _move(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: _move(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)) and not hasattr(batch, "_fields"):
        return type(batch)(_move(value, device) for value in batch)
    return batch
