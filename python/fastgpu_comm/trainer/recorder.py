"""Turns what the loop did into metrics, progress and the result of a run."""

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
    """What a call of `fit` did. Sums are over this call, not over what a resume found done.

    Attributes:
        step: optimizer steps taken since the start of the whole run.
        loss: the last recorded training loss (None: no step was taken).
        evaluation_loss: the last one, None without evaluations.
        best_evaluation_loss: the lowest one, None without evaluations.
        stopped_early: whether patience ran out.
        train_s: seconds in training steps, without evaluations and checkpoints.
        samples: trained on, over all ranks.
        predictions: trained on, over all ranks (tokens, for a language model).
        in_flight_s: seconds with a gradient all-reduce in flight (see `communication`), or None.
        waited_s: seconds of these that no computation hid, or None.
        bytes_sent: by this rank.
        bytes_counted: whether the backend counted them; else they are computed.
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


class Recorder:
    """Keeps the result on every rank; shows and writes records on rank 0 only. One thread."""

    def __init__(
        self, settings: TrainerSettings, ranks: Ranks, traffic: GradientTraffic | None
    ) -> None:
        """Opens nothing yet.

        Args:
            settings: say where to write and whether to show.
            ranks: over which losses are averaged; times and bytes are this rank's own.
            traffic: what the gradients' all-reduce costs, None on a process on its own.
        """
        self.result = TrainResult()
        self._settings = settings
        self._ranks = ranks
        self._traffic = traffic
        self._log: MetricLog | None = None
        self._view: ProgressView | None = None

    @contextlib.contextmanager
    def outputs(self, done: int) -> Iterator[None]:
        """Opens what is written to and shown, and closes it whatever happens.

        Args:
            done: the steps already taken.
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
        """Shows that a step was taken."""
        if self._view is not None:
            self._view.step(step)

    def evaluation(self, step: int, summary: dict[str, float]) -> None:
        """Records an evaluation, whose summary is over all ranks."""
        loss, best = summary["loss"], self.result.best_evaluation_loss
        self.result.evaluation_loss = loss
        self.result.best_evaluation_loss = loss if best is None else min(best, loss)
        self._write({"event": "evaluation", "step": step, **summary})

    def training(self, step: int, tally: Tally, seconds: float, facts: Mapping[str, float]) -> None:
        """Records the steps since the last record; a collective.

        Args:
            step: the last of them.
            tally: of this rank; holds the sums over the ranks afterwards.
            seconds: this rank spent in them.
            facts: to be recorded too.
        """
        self._ranks.add_up(tally.values)
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
