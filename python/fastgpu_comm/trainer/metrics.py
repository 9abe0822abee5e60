"""Writes the metrics of a run as JSON lines, one record per line, and for TensorBoard."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class MetricLog:
    """Appends records to a folder's `metrics.jsonl`, and their numbers to TensorBoard's files.

    One thread. `write` returns after it has passed the whole line to the kernel. A resumed run
    repeats some steps; their new records follow the old ones, and the last record of a step counts.
    """

    def __init__(self, folder: Path, tensorboard: bool) -> None:
        """Opens the files.

        Args:
            folder: The folder of the files; it is created if needed.
            tensorboard: Also write TensorBoard's files, if the package tensorboard is installed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._board: Any = None
        if tensorboard and importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._board = SummaryWriter(str(folder / "tensorboard"))

    def write(self, record: Record) -> None:
        """Writes a record: "event", "step" and any numbers."""
        finite = {name: _as_json(value) for name, value in record.items()}
        self._file.write(json.dumps(finite, allow_nan=False) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in record.items():
                if name != "step" and isinstance(value, (int, float)):
                    self._board.add_scalar(f"{record['event']}/{name}", value, record["step"])

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def read(path: Path) -> list[Record]:
    """Returns the records of a `metrics.jsonl` file in the order they were written."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _as_json(value: Any) -> Any:
    """Turns NaN and infinities into text, because JSON has no numbers for them."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
