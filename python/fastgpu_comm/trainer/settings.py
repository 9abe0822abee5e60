"""What a training run is told, checked when it is written down."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

PRECISIONS = ("fp32", "bf16", "fp16")


@dataclasses.dataclass(frozen=True)
class TrainerSettings:
    """How long, how much at once, how precisely, and what is kept.

    Attributes:
        steps: optimizer steps of the whole run, those before a resume included.
        batch_size: samples of one step, over all ranks and micro-batches together. The last
            batch of an epoch may be smaller; no sample is dropped or used twice.
        accumulation: micro-batches into which a rank splits its part of a batch.
        seed: orders the samples; `seed + rank` seeds the random generators of a rank.
        precision: "fp32", "bf16" (autocast) or "fp16" (autocast and a loss scaler).
        clip_norm: the largest global norm of the gradients, or None for no clipping.
        log_every: steps from one record of the metrics to the next.
        evaluate_every: steps from one evaluation to the next, or None for none.
        patience: evaluations without an improvement after which training stops, or None.
        min_improvement: how much lower a loss must be to count as an improvement.
        folder: where metrics are written, or None not to write any.
        checkpoint_folder: where checkpoints are written; by default `checkpoints` in `folder`.
        checkpoint_every: steps from one checkpoint to the next, or None for none; with it, the
            last step is saved too.
        keep_checkpoints: how many checkpoints are kept.
        resume: go on from the newest good checkpoint (from the start if there is none).
        tensorboard: also write TensorBoard's files, where the package tensorboard is installed.
        progress: show the progress on rank 0.
    """

    steps: int
    batch_size: int
    accumulation: int = 1
    seed: int = 0
    precision: str = "fp32"
    clip_norm: float | None = None
    log_every: int = 10
    evaluate_every: int | None = None
    patience: int | None = None
    min_improvement: float = 0.0
    folder: Path | None = None
    checkpoint_folder: Path | None = None
    checkpoint_every: int | None = None
    keep_checkpoints: int = 2
    resume: bool = False
    tensorboard: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        """Checks every value.

        Raises:
            ValueError: naming the value, what is allowed and what to do.
        """
        for name in ("steps", "batch_size", "accumulation", "log_every", "keep_checkpoints"):
            _check_count(name, getattr(self, name))
        for name in ("evaluate_every", "patience", "checkpoint_every"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name))
        if not _is_whole(self.seed) or not 0 <= self.seed < 2**32:
            raise _bad("seed", self.seed, "a whole number from 0 to 2**32 - 1")
        if self.precision not in PRECISIONS:
            raise _bad("precision", self.precision, "one of " + ", ".join(PRECISIONS))
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise _bad("clip_norm", self.clip_norm, "a number above 0; for no clipping use None")
        if not 0 <= self.min_improvement < math.inf:
            raise _bad("min_improvement", self.min_improvement, "a number of at least 0")
        self._check_combinations()
        if self.folder is not None and self.checkpoint_folder is None:
            object.__setattr__(self, "checkpoint_folder", self.folder / "checkpoints")

    def _check_combinations(self) -> None:
        if self.accumulation > self.batch_size:
            raise _bad(
                "accumulation",
                self.accumulation,
                f"at most batch_size, which is {self.batch_size}: a micro-batch needs a sample",
            )
        if self.patience is not None and self.evaluate_every is None:
            raise _bad("patience", self.patience, "None unless evaluate_every is set: set it too")
        nowhere = self.folder is None and self.checkpoint_folder is None
        if nowhere and (self.checkpoint_every is not None or self.resume):
            name = "resume" if self.resume else "checkpoint_every"
            allowed = f"a folder when {name} is set (or set folder): say where checkpoints lie"
            raise _bad("checkpoint_folder", None, allowed)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _bad(name, value, "a whole number of at least 1")


def _bad(name: str, value: object, allowed: str) -> ValueError:
    return ValueError(f"TrainerSettings.{name} is {value!r}; it must be {allowed}.")
