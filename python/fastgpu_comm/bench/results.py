"""The results of a benchmark: a row for each call and backend, and their JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class Timing:
    """Statistics over the times of a row's calls; a call takes as long as its slowest rank."""

    calls: int
    p50_us: float
    p99_us: float
    mean_us: float
    min_us: float
    max_us: float


def summarise(times_us: Sequence[float]) -> Timing:
    """Returns the statistics of `times_us`, which must not be empty."""
    ordered = sorted(times_us)
    p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    return Timing(
        calls=len(ordered),
        p50_us=statistics.median(ordered),
        p99_us=p99,
        mean_us=statistics.fmean(ordered),
        min_us=ordered[0],
        max_us=ordered[-1],
    )


@dataclass(frozen=True)
class Row:
    """The calls of one collective on one backend at one size, in or out of place."""

    collective: str
    backend: str
    placement: str  # "out" or "in"
    size_bytes: int
    count: int
    dtype: str
    redop: str  # "none" if the collective does not reduce
    root: int  # -1 if the collective has no root
    timing: Timing | None  # None if the call failed; then `error` has the message
    algbw_gb_s: float = 0.0
    busbw_gb_s: float = 0.0
    wrong: int = 0
    error: str | None = None


@dataclass
class Results:
    """A whole benchmark, with everything needed to repeat it."""

    command: str
    world_size: int
    backends: Sequence[str]
    machine: dict[str, str]
    options: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        """The number of wrong elements over all rows."""
        return sum(row.wrong for row in self.rows)

    @property
    def errors(self) -> list[Row]:
        """The rows whose calls failed."""
        return [row for row in self.rows if row.error is not None]

    def average_busbw(self, backend: str) -> float:
        """Returns the mean bus bandwidth of a backend's rows in GB/s, as nccl-tests prints it."""
        speeds = [row.busbw_gb_s for row in self.rows if row.backend == backend and row.timing]
        return statistics.fmean(speeds) if speeds else 0.0

    def to_json(self) -> str:
        """Returns all results as JSON, `schema` first."""
        return json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, indent=1) + "\n"


def ratio(row: Row, rows: Iterable[Row]) -> float | None:
    """Returns `row`'s time over the time of the first row in `rows` for the same call.

    None if either call failed, or if `row` is itself the first.
    """
    for first in rows:
        if _call(first) == _call(row):
            if first is row or not first.timing or not row.timing:
                return None
            return row.timing.p50_us / first.timing.p50_us
    return None


def _call(row: Row) -> tuple[str, str, int, str, str]:
    return row.collective, row.placement, row.size_bytes, row.dtype, row.redop
