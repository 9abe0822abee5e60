"""Metrics of a run as JSON lines, one record a line, and as TensorBoard's files."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class MetricLog:
    """Appends records to `metrics.jsonl` in a folder, and their numbers to TensorBoard.

    One thread. A line is complete on the disk's side of this process when `write` returns. After a
    resume, records of steps that are run again follow the earlier ones: the last one counts.
    """

    def __init__(self, folder: Path, tensorboard: bool) -> None:
        """Opens the files.

        Args:
            folder: made if it is not there.
            tensorboard: write TensorBoard's files too, if the package tensorboard is installed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._board: Any = None
        if tensorboard and importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter  # heavy, and only if it is there

            self._board = SummaryWriter(str(folder / "tensorboard"))

    def write(self, record: Record) -> None:
        """Writes a record, which has "event" and "step" beside its numbers."""
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
    """Returns the records of a `metrics.jsonl`, in the order in which they were written."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _as_json(value: Any) -> Any:
    """JSON knows no NaN and no infinity: they are written as words."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
