"""Shows a benchmark as it runs: the table's lines on standard output, progress on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType

from fastgpu_comm.bench import table
from fastgpu_comm.bench.results import Results, Row
from fastgpu_comm.bench.sizes import format_size
from fastgpu_comm.bench.worker import Line


class Display:
    """A context: the header at its start, the footer at its end. Silent unless `visible`."""

    def __init__(self, results: Results, steps: int, visible: bool) -> None:
        """`results` is read at the end; `steps` is the number of lines that will be added."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self._results = results
        self._visible = visible
        self._collective = ""
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
        self._task = self._progress.add_task("starting", total=steps)

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
        """Prints the footer, unless the benchmark was broken off."""
        self._progress.stop()
        if error is None:
            self._print(table.footer(self._results))

    def add(self, line: Line, rows: Sequence[Row]) -> None:
        """Prints what was measured for `line`: one line of text for each backend."""
        if line.name != self._collective:
            self._print(f"# {line.name}")
            self._collective = line.name
        for backend in self._results.backends:
            self._print(table.line([row for row in rows if row.backend == backend], rows))
        done = f"{line.name} {format_size(line.size_bytes)} done"
        self._progress.update(self._task, advance=1, description=done)

    def _print(self, text: str) -> None:
        if self._visible:
            print(text, flush=True)
