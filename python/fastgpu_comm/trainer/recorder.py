"""Records the events of a run: in the metrics, on the display and in the result."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping

from fastgpu_comm.trainer.communication import GradientTraffic
from fastgpu_comm.trainer.metrics import MetricLog, Record
from fastgpu_comm.trainer.objective import Tally
from fastgpu_comm.trainer.progress import ProgressView
from fastgpu_comm.trainer.ranks import Ranks
from fastgpu_comm.trainer.settings import TrainerSettings


@dataclasses.dataclass
class TrainResult:
    """The result of one call of `fit`. Sums exclude the steps before a resume.

    Attributes:
        step: The optimizer steps taken since the start of the whole run.
        loss: The last recorded training loss; None if no step was taken.
        evaluation_loss: The last evaluation loss; None without evaluations.
        best_evaluation_loss: The lowest evaluation loss; None without evaluations.
        stopped_early: Whether the run stopped because the evaluations no longer improved.
        train_s: Seconds spent in training steps, without evaluations and checkpoints.
        samples: The samples trained on, over all ranks.
        predictions: The predictions trained on, over all ranks, such as a language model's tokens.
        in_flight_s: Seconds with a gradient all-reduce in flight (see `communication`), or None if
            not measured.
        waited_s: Seconds of exposed communication, or None if not measured.
        bytes_sent: The bytes that this rank sent.
        bytes_counted: Whether the backend counted these bytes; else they are computed.
        gradient_bytes: Bytes of the gradients that were reduced, uncompressed; None if a hook of
            the user's reduces them, as is `encoded_bytes`.
        encoded_bytes: The size of the encoded gradients; without a codec, `gradient_bytes`.
    """

    step: int = 0
    loss: float | None = None
    evaluation_loss: float | None = None
    best_evaluation_loss: float | None = None
    stopped_early: bool = False
    train_s: float = 0.0
    samples: int = 0
    predictions: int = 0
    in_flight_s: float | None = None
    waited_s: float | None = None
    bytes_sent: int = 0
    bytes_counted: bool = False
    gradient_bytes: int | None = None
    encoded_bytes: int | None = None


class Recorder:
    """Keeps the result on every rank; writes and shows records on rank 0 only. One thread."""

    def __init__(
        self, settings: TrainerSettings, ranks: Ranks, traffic: GradientTraffic | None
    ) -> None:
        """Opens no file yet.

        Args:
            settings: The settings of the run.
            ranks: The ranks over which losses are averaged. Times and bytes are of this rank.
            traffic: The measurement of the gradients' all-reduce, or None without a group.
        """
        self.result = TrainResult()
        self._settings = settings
        self._ranks = ranks
        self._traffic = traffic
        self._log: MetricLog | None = None
        self._view: ProgressView | None = None

    @contextlib.contextmanager
    def outputs(self, done: int) -> Iterator[None]:
        """Opens the metrics and the display, and closes them at the end, also after an error.

        Args:
            done: The steps already taken.
        """
        with contextlib.ExitStack() as stack:
            if self._ranks.rank == 0 and self._settings.folder is not None:
                self._log = MetricLog(self._settings.folder, self._settings.tensorboard)
                stack.callback(self._log.close)
            if self._ranks.rank == 0 and self._settings.progress:
                self._view = ProgressView(self._settings.steps, done)
                stack.callback(self._view.close)
            yield
        self._log = self._view = None

    def step(self, step: int) -> None:
        """Shows that `step` steps were taken."""
        if self._view is not None:
            self._view.step(step)

    def evaluation(self, step: int, summary: dict[str, float]) -> None:
        """Records an evaluation; `summary` covers all ranks."""
        loss, best = summary["loss"], self.result.best_evaluation_loss
        self.result.evaluation_loss = loss
        self.result.best_evaluation_loss = loss if best is None else min(best, loss)
        self._write({"event": "evaluation", "step": step, **summary})

    def training(self, step: int, tally: Tally, seconds: float, facts: Mapping[str, float]) -> None:
        """Records the steps since the last record. A collective.

        Args:
            step: The last of these steps.
            tally: The outcomes on this rank; afterwards it holds the sums over the ranks.
            seconds: The time this rank spent in these steps.
            facts: Other numbers to record.
        """
        self._ranks.sum_in_place(tally.values)
        summary = tally.summary()
        result = self.result
        result.loss = summary["loss"]
        result.train_s += seconds
        result.samples += int(summary["samples"])
        result.predictions += int(summary["predictions"])
        record: Record = {
            "event": "train",
            "step": step,
            **facts,
            **summary,
            "train_s": seconds,
            "samples_per_s": summary["samples"] / seconds,
            "predictions_per_s": summary["predictions"] / seconds,
        }
        if self._traffic is not None:
            record.update(self._take_traffic(self._traffic, seconds))
        self._write(record)

    def _take_traffic(self, source: GradientTraffic, seconds: float) -> Record:
        traffic, result = source.take(), self.result
        result.bytes_sent += traffic.bytes_sent
        result.bytes_counted = traffic.counted
        record: Record = {
            "bytes_sent": traffic.bytes_sent,
            "bytes_source": "counted" if traffic.counted else "computed",
        }
        if traffic.gradient_bytes is not None and traffic.encoded_bytes is not None:
            result.gradient_bytes = (result.gradient_bytes or 0) + traffic.gradient_bytes
            result.encoded_bytes = (result.encoded_bytes or 0) + traffic.encoded_bytes
            record["gradient_bytes"] = traffic.gradient_bytes
            record["encoded_bytes"] = traffic.encoded_bytes
            record["bytes_saved"] = traffic.gradient_bytes - traffic.encoded_bytes
        if traffic.waited_s is not None and traffic.in_flight_s is not None:
            result.in_flight_s = (result.in_flight_s or 0.0) + traffic.in_flight_s
            result.waited_s = (result.waited_s or 0.0) + traffic.waited_s
            record["communication_in_flight_s"] = traffic.in_flight_s
            record["communication_waited_s"] = traffic.waited_s
            record["communication_share"] = traffic.waited_s / seconds
        return record

    def _write(self, record: Record) -> None:
        if self._log is not None:
            self._log.write(record)
        if self._view is not None:
            self._view.record(record)
