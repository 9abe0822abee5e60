"""One rank of a benchmark: measures every case on every backend."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from fastgpu_comm.bench import data
from fastgpu_comm.bench.calls import PREPARE, Case
from fastgpu_comm.bench.job import Job
from fastgpu_comm.bench.measure import Budget, Measured, Runner, compare
from fastgpu_comm.bench.results import Row, summarise
from fastgpu_comm.collectives import COLLECTIVES, Collective


@dataclass(frozen=True)
class Settings:
    """The calls to measure, and the time for each."""

    collectives: Sequence[str]
    backends: Sequence[str]
    sizes: Sequence[int]
    dtypes: Sequence[str]
    redops: Sequence[str]
    root: int
    budget: Budget
    touch: bool
    timeout: datetime.timedelta
    device: str = "cpu"  # the type


@dataclass(frozen=True)
class Line:
    """A line of the table to measure: a collective with a dtype, a reduction and a size."""

    name: str
    dtype: str
    redop: str
    count: int
    size_bytes: int

    @property
    def collective(self) -> Collective:
        """The collective's definition."""
        return COLLECTIVES[self.name]


def lines(settings: Settings, world_size: int) -> list[Line]:
    """Returns the lines to measure, without sizes that are too small for one element."""
    found: dict[Line, None] = {}
    for name in settings.collectives:
        collective = COLLECTIVES[name]
        redops = settings.redops if collective.reduces else ["none"]
        dtypes, sizes = settings.dtypes, settings.sizes
        if not collective.has_data:
            dtypes, sizes = settings.dtypes[:1], [0]
        for dtype in dtypes:
            element_size = getattr(torch, dtype).itemsize
            for redop in redops:
                for requested in sizes:
                    count = collective.count(requested, element_size, world_size)
                    size = collective.size_bytes(count, element_size, world_size)
                    if count or not requested:
                        found[Line(name, dtype, redop, count, size)] = None
    return list(found)


class Worker:
    """Measures the lines of `settings` as one rank of a job."""

    def __init__(self, settings: Settings, job: Job) -> None:
        """Creates nothing; `job` must have a group for each of the settings' backends."""
        self._settings = settings
        self._job = job

    def run(self) -> Iterator[tuple[Line, list[Row]]]:
        """Measures the lines in order; yields each line with its rows, equal on all ranks."""
        for line in lines(self._settings, self._job.world_size):
            rows: list[Row] = []
            for placement in line.collective.placements:
                measured = self._measure(line, in_place=placement == "in")
                rows += [
                    self._row(line, placement, backend, result)
                    for backend, result in measured.items()
                ]
            yield line, rows

    def _measure(self, line: Line, in_place: bool) -> dict[str, Measured]:
        settings, job = self._settings, self._job
        dtype = getattr(torch, line.dtype)
        runners = []
        for backend, group in job.groups.items():
            case = Case(
                group=group,
                rank=job.rank,
                world_size=job.world_size,
                root=settings.root,
                dtype=dtype,
                reduction=line.redop,
                count=line.count,
                in_place=in_place,
                device=settings.device,
            )
            runners.append(
                Runner(
                    backend=backend,
                    call=PREPARE[line.name](case),
                    barrier=_barrier(group),
                    separate=not line.collective.synchronizes,
                    touch=settings.touch,
                    finish=_finish(settings.device),
                )
            )
        tolerance = data.tolerance(line.redop, job.world_size, dtype)
        return compare(runners, job.exchange, settings.budget, tolerance)

    def _row(self, line: Line, placement: str, backend: str, measured: Measured) -> Row:
        timing = summarise(measured.times_us) if measured.times_us else None
        algbw = line.size_bytes / timing.p50_us / 1000 if timing else 0.0
        return Row(
            collective=line.name,
            backend=backend,
            placement=placement,
            size_bytes=line.size_bytes,
            count=line.count,
            dtype=line.dtype,
            redop=line.redop,
            root=self._settings.root if line.collective.rooted else -1,
            timing=timing,
            algbw_gb_s=algbw,
            busbw_gb_s=algbw * line.collective.bus_factor(self._job.world_size),
            wrong=measured.wrong,
            error=measured.error or None,
        )


def _barrier(group: dist.ProcessGroup) -> Callable[[], object]:
    return lambda: dist.barrier(group)


def _finish(device: str) -> Callable[[], object] | None:
    if device == "cpu":
        return None
    synchronize: Callable[[], object] = torch.get_device_module(device).synchronize
    return synchronize
