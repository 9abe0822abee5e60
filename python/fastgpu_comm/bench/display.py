"""Shows a running benchmark: table lines on standard output, a progress bar on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType

from fastgpu_comm.bench import table
from fastgpu_comm.bench.results import Results, Row
from fastgpu_comm.bench.sizes import format_size
from fastgpu_comm.bench.worker import Line


class Display:
    """A context manager that prints the header first and the footer last."""

    def __init__(self, results: Results, line_count: int, visible: bool) -> None:
        """Prepares the progress bar.

        Args:
            results: The benchmark's results; the footer sums them up.
            line_count: How many lines will be added.
            visible: Print anything at all, which only rank 0 should.
        """
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self._results = results
        self._visible = visible
        self._section = ""
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            Remaining(),
            console=console,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
            disable=not (visible and console.is_terminal),
        )
        self._task = self._progress.add_task("starting", total=line_count)

    def __enter__(self) -> Display:
        """Prints the header."""
        self._progress.start()
        self._print(table.header(self._results))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Prints the footer, unless an exception ended the benchmark."""
        self._progress.stop()
        if error is None:
            self._print(table.footer(self._results))

    def add(self, line: Line, rows: Sequence[Row]) -> None:
        """Prints the rows of `line`, one text line per row."""
        backends = self._results.backends
        section = table.section(rows[0], backends)
        if section != self._section:
            self._print(section)
            self._section = section
        for row in rows:
            self._print(table.line(row, rows, backends))
        done = f"{line.name} {format_size(line.size_bytes)} done"
        self._progress.update(self._task, advance=1, description=done)

    def _print(self, text: str) -> None:
        if self._visible:
            print(text, flush=True)
