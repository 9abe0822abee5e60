"""Shows the progress of a training run: a bar on a terminal, else a line every few seconds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fastgpu_comm.trainer.metrics import Record

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_SECONDS_PER_LINE = 5.0


class ProgressView:
    """Shows records. One thread. It must be closed, or the terminal's cursor stays hidden."""

    def __init__(self, steps: int, done: int, console: Console | None = None) -> None:
        """Starts the bar, if the console is a terminal.

        Args:
            steps: The steps of the whole run.
            done: The steps already taken.
            console: Where to show the progress; by default standard output.
        """
        from rich import console as consoles
        from rich import live, progress, text

        self._steps = steps
        self._console = console or consoles.Console()
        self._line_due = 0.0
        self._bar: Progress | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._bar = progress.Progress(
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeRemainingColumn(),
                progress.TextColumn("left"),
            )
            self._task = self._bar.add_task("", total=steps, completed=done)
            # The numbers have a line of their own: beside the bar they would leave no room for it
            # on a terminal of 80 columns.
            self._numbers = text.Text("", no_wrap=True, overflow="ellipsis")
            lines = consoles.Group(self._bar, self._numbers)
            self._live = live.Live(lines, console=self._console)
            self._live.start()

    def step(self, step: int) -> None:
        """Moves the bar to a step."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def record(self, record: Record) -> None:
        """Shows a record. Without a bar, training records soon after the last line are skipped."""
        evaluation = record["event"] == "evaluation"
        if self._bar is not None and not evaluation:
            self._numbers.plain = describe(record)
        elif self._bar is not None or evaluation or self._is_line_due(record["step"]):
            title = "evaluation" if evaluation else f"step {record['step']}/{self._steps}"
            text = f"{title}  {describe(record)}"
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Stops the bar and restores the terminal."""
        if self._bar is not None:
            self._live.stop()

    def _is_line_due(self, step: int) -> bool:
        now = time.monotonic()
        if now < self._line_due and step < self._steps:
            return False
        self._line_due = now + _SECONDS_PER_LINE
        return True


def describe(record: Record) -> str:
    """Returns the numbers of a record as readable text."""
    parts = [f"loss {record['loss']:.4f}"]
    if "accuracy" in record:
        parts.append(f"accuracy {record['accuracy']:.1%}")
    if record.get("predictions_per_s"):
        parts.append(f"{record['predictions_per_s']:,.0f} predictions/s")
    elif "samples_per_s" in record:
        parts.append(f"{record['samples_per_s']:,.1f} samples/s")
    if record.get("communication_share") is not None:
        parts.append(f"communication {record['communication_share']:.1%}")
    return "  ".join(parts)
