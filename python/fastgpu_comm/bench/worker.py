"""One rank of a benchmark: makes a process group for each backend and measures every case on it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from fastgpu_comm.bench import data
from fastgpu_comm.bench.collectives import COLLECTIVES, Case, Collective
from fastgpu_comm.bench.exchange import Exchange
from fastgpu_comm.bench.measure import Budget, Measured, Runner, compare
from fastgpu_comm.bench.results import Row, summarise


@dataclass(frozen=True)
class Settings:
    """What to measure."""

    collectives: Sequence[str]
    backends: Sequence[str]
    sizes: Sequence[int]
    dtypes: Sequence[str]
    redops: Sequence[str]
    root: int
    budget: Budget
    touch: bool
    timeout: datetime.timedelta


@dataclass(frozen=True)
class Line:
    """One line of the table before the measurement: a collective at a size, dtype and reduction."""

    name: str
    dtype: str
    redop: str
    count: int
    size_bytes: int

    @property
    def collective(self) -> Collective:
        """What the line's name means."""
        return COLLECTIVES[self.name]


def lines(settings: Settings, world_size: int) -> list[Line]:
    """Returns the lines that `settings` asks for; sizes too small for one element are left out."""
    found: dict[Line, None] = {}
    for name in settings.collectives:
        collective = COLLECTIVES[name]
        redops = settings.redops if collective.reduces else ["none"]
        dtypes, sizes = settings.dtypes, settings.sizes
        if name == "barrier":  # moves nothing
            dtypes, sizes = settings.dtypes[:1], [0]
        for dtype_name in dtypes:
            dtype = getattr(torch, dtype_name)
            for redop in redops:
                for asked in sizes:
                    count = collective.count(asked, dtype, world_size)
                    size = collective.size_bytes(count, dtype, world_size)
                    if count or not asked:
                        found[Line(name, dtype_name, redop, count, size)] = None
    return list(found)


class Worker:
    """This rank's process groups, one for each backend, and the measuring of lines on them."""

    def __init__(self, settings: Settings) -> None:
        """Joins the job that the environment describes; ends in `close`."""
        torch.set_num_threads(1)
        store, self.rank, self.world_size = next(dist.rendezvous("env://"))
        store.set_timeout(settings.timeout * 2)  # a failed call is to be heard of before this
        self._settings = settings
        self._exchange = Exchange(dist.PrefixStore("bench", store), self.rank, self.world_size)
        dist.init_process_group(
            settings.backends[0],
            store=dist.PrefixStore("group", store),
            rank=self.rank,
            world_size=self.world_size,
            timeout=settings.timeout,
        )
        self._groups: dict[str, dist.ProcessGroup] = {}
        for backend in settings.backends:
            self._groups[backend] = dist.new_group(backend=backend, timeout=settings.timeout)

    def close(self) -> None:
        """Leaves the job."""
        self._exchange.all("done")
        dist.destroy_process_group()

    def run(self) -> Iterator[tuple[Line, list[Row]]]:
        """Measures line after line; yields each with its rows, the same on every rank."""
        for line in lines(self._settings, self.world_size):
            rows: list[Row] = []
            for placement in line.collective.placements:
                measured = self._measure(line, in_place=placement == "in")
                rows += [
                    self._row(line, placement, backend, result)
                    for backend, result in measured.items()
                ]
            yield line, rows

    def _measure(self, line: Line, in_place: bool) -> dict[str, Measured]:
        settings = self._settings
        dtype = getattr(torch, line.dtype)
        runners = []
        for backend, group in self._groups.items():
            case = Case(
                group=group,
                rank=self.rank,
                world_size=self.world_size,
                root=settings.root,
                dtype=dtype,
                reduction=line.redop,
                count=line.count,
                in_place=in_place,
            )
            runners.append(
                Runner(
                    backend=backend,
                    call=line.collective.prepare(case),
                    barrier=_barrier(group),
                    apart=not line.collective.meets,
                    touch=settings.touch,
                )
            )
        tolerance = data.tolerance(line.redop, self.world_size, dtype)
        return compare(runners, self._exchange, settings.budget, tolerance)

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
            busbw_gb_s=algbw * line.collective.bus_factor(self.world_size),
            wrong=measured.wrong,
            error=measured.error or None,
        )


def _barrier(group: dist.ProcessGroup) -> Callable[[], object]:
    return lambda: dist.barrier(group)
