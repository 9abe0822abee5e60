"""What a benchmark found: a row for each call that was measured on a backend, and their JSON."""

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
    """The times of a row's calls, in microseconds; a call's time is its slowest rank's."""

    calls: int
    p50_us: float
    p99_us: float
    mean_us: float
    min_us: float
    max_us: float


def summarise(times_us: Sequence[float]) -> Timing:
    """Returns the percentiles and bounds of `times_us`, which is not empty."""
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
    """One backend's calls of one collective at one size, in or out of place."""

    collective: str
    backend: str
    placement: str  # "out" or "in"
    size_bytes: int
    count: int
    dtype: str
    redop: str  # "none" where nothing is reduced
    root: int  # -1 where there is none
    timing: Timing | None  # None: the call failed, `error` says how
    algbw_gb_s: float = 0.0
    busbw_gb_s: float = 0.0
    wrong: int = 0
    error: str | None = None


@dataclass
class Results:
    """A whole benchmark, with what is needed to do it again."""

    command: str
    world_size: int
    backends: Sequence[str]
    machine: dict[str, str]
    options: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        """The elements that came out wrong, over all rows."""
        return sum(row.wrong for row in self.rows)

    @property
    def errors(self) -> list[Row]:
        """The rows whose calls failed."""
        return [row for row in self.rows if row.error is not None]

    def average_busbw(self, backend: str) -> float:
        """Returns the mean bus bandwidth of a backend's rows, in GB/s, as nccl-tests ends with."""
        speeds = [row.busbw_gb_s for row in self.rows if row.backend == backend and row.timing]
        return statistics.fmean(speeds) if speeds else 0.0

    def to_json(self) -> str:
        """Returns everything as JSON, `schema` first."""
        return json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, indent=1) + "\n"


def ratio(row: Row, rows: Iterable[Row]) -> float | None:
    """Returns `row`'s time over that of the first backend's row for the same call.

    None where either failed, or where `row` is itself the first.
    """
    for first in rows:
        if _call(first) == _call(row):
            if first is row or not first.timing or not row.timing:
                return None
            return row.timing.p50_us / first.timing.p50_us
    return None


def _call(row: Row) -> tuple[str, str, int, str, str]:
    return row.collective, row.placement, row.size_bytes, row.dtype, row.redop
