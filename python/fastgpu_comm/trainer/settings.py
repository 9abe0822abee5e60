"""The settings of a training run, checked when they are created."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TypeGuard

from fastgpu_comm import codecs
from fastgpu_comm.codec_choice import AUTO
from fastgpu_comm.trainer.precision import DTYPES


@dataclasses.dataclass(frozen=True)
class TrainerSettings:
    """The length, batches, precision and outputs of a run.

    Attributes:
        steps: The optimizer steps of the whole run, including those before a resume.
        batch_size: The samples of one step, over all ranks and micro-batches. The last batch of an
            epoch may be smaller; no sample is dropped or used twice.
        accumulation: The number of micro-batches that a rank splits its part of a batch into.
        seed: The seed of the samples' order. `seed + rank` seeds a rank's random generators.
        precision: "fp32", "bf16" (autocast) or "fp16" (autocast and a loss scaler).
        codec: How gradients travel between the ranks: "fp16", "bf16", "int8", "int4", "topk",
            "1bit", "auto" (see `fastgpu_comm.DistributedDataParallel`), or None for uncompressed.
            A `codecs.Codec` has more options. Needs the backend `fastgpu` and a model that the
            trainer wraps. "1bit" is refused for Adam and its like: see `codecs.check_optimizer`.
            "auto" goes by measured times, so two runs may differ in their bits.
        clip_norm: The largest global norm of the gradients, or None for no clipping.
        log_every: The steps from one metrics record to the next.
        evaluate_every: The steps from one evaluation to the next, or None for no evaluations.
        patience: After how many evaluations without an improvement to stop, or None.
        min_improvement: How much lower a loss must be to count as an improvement.
        folder: The folder for the metrics, or None to write none. Text becomes a Path, here and in
            `checkpoint_folder`.
        checkpoint_folder: The folder for checkpoints; by default `checkpoints` in `folder`.
        checkpoint_every: The steps from one checkpoint to the next, or None for no checkpoints. The
            last step gets a checkpoint too.
        keep_checkpoints: How many checkpoints to keep.
        resume: Continue from the newest good checkpoint, or start if there is none.
        tensorboard: Also write TensorBoard's files, if the package tensorboard is installed.
        progress: Show the progress on rank 0.
    """

    steps: int
    batch_size: int
    accumulation: int = 1
    seed: int = 0
    precision: str = "fp32"
    codec: codecs.Codec | str | None = None
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
            ValueError: A value is not allowed; the message says what is.
        """
        for name in ("steps", "batch_size", "accumulation", "log_every", "keep_checkpoints"):
            _check_count(name, getattr(self, name))
        for name in ("evaluate_every", "patience", "checkpoint_every"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name))
        if not _is_int(self.seed) or not 0 <= self.seed < 2**32:
            raise _bad("seed", self.seed, "a whole number from 0 to 2**32 - 1")
        if self.precision not in DTYPES:
            raise _bad("precision", self.precision, "one of " + ", ".join(DTYPES))
        known = (*codecs.NAMES, AUTO)
        if not (isinstance(self.codec, codecs.Codec) or self.codec in (None, *known)):
            wanted = f"None, a codecs.Codec or one of {', '.join(known)}"
            raise _bad("codec", self.codec, wanted)
        clip_norm = self.clip_norm
        if clip_norm is not None and not (_is_number(clip_norm) and 0 < clip_norm < math.inf):
            raise _bad("clip_norm", clip_norm, "a number above 0; for no clipping use None")
        if not (_is_number(self.min_improvement) and 0 <= self.min_improvement < math.inf):
            raise _bad("min_improvement", self.min_improvement, "a number of at least 0")
        for name in ("folder", "checkpoint_folder"):
            self._make_path(name)
        self._check_combinations()
        if self.folder is not None and self.checkpoint_folder is None:
            object.__setattr__(self, "checkpoint_folder", self.folder / "checkpoints")

    def _make_path(self, name: str) -> None:
        value = getattr(self, name)
        if isinstance(value, str):
            object.__setattr__(self, name, Path(value))
        elif value is not None and not isinstance(value, Path):
            raise _bad(name, value, "a path, as text or pathlib.Path, or None")

    def _check_combinations(self) -> None:
        if self.accumulation > self.batch_size:
            raise _bad(
                "accumulation",
                self.accumulation,
                f"at most batch_size, which is {self.batch_size}: a micro-batch needs a sample",
            )
        if self.patience is not None and self.evaluate_every is None:
            raise _bad("patience", self.patience, "None unless evaluate_every is also set")
        nowhere = self.folder is None and self.checkpoint_folder is None
        if nowhere and (self.checkpoint_every is not None or self.resume):
            name = "resume" if self.resume else "checkpoint_every"
            allowed = f"a folder when {name} is set (or set folder)"
            raise _bad("checkpoint_folder", None, allowed)


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_count(name: str, value: object) -> None:
    if not _is_int(value) or value < 1:
        raise _bad(name, value, "a whole number of at least 1")


def _bad(name: str, value: object, allowed: str) -> ValueError:
    return ValueError(f"TrainerSettings.{name} is {value!r}; it must be {allowed}.")
