"""Measures collectives through torch.distributed: a line of JSON per entry and backend.

    python bench/torch_rank.py --ranks 2 --backends fastgpu,gloo all_reduce:float32:4096 ...

It makes the same calls and prints the same lines as fastgpu_bench_core and bench/mpi_collectives.c,
so that bench/peers.py can compare them. The backends take turns in the same processes. Each rank is
bound to its share of the processors, as MPI's launchers do.

    mpiexec -n 2 python bench/torch_rank.py --mpi NAME=LIBRARY ENTRY ...

It calls an MPI (bench/mpi_library.c) instead, as a backend would: behind the same call of
torch.distributed, made on torch's backend `fake`, which does nothing. That call has tensors of one
element, because `fake` copies some.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import datetime
import json
import os
import resource
import sys
import time

import torch
import torch.distributed as dist
from torch.testing._internal.distributed import fake_pg  # noqa: F401  (registers the backend)

import fastgpu_comm
from fastgpu_comm import launch
from fastgpu_comm.bench.calls import PREPARE, Call, Case
from fastgpu_comm.bench.job import Job
from fastgpu_comm.collectives import COLLECTIVES

MOST_CALLS, FEWEST_CALLS, WARM_UPS = 3000, 5, 3
SETTLE_S = 0.1  # of calls before the measurement, in which the kernel spreads ranks over cores
TIMEOUT = datetime.timedelta(seconds=60)


def cpu_seconds() -> float:
    """Returns the processor time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def bind() -> None:
    """Binds this rank to its share of the processors, as the launchers of MPIs do."""
    processors = sorted(os.sched_getaffinity(0))
    rank, ranks = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    first = rank * len(processors) // ranks
    last = max(first + 1, (rank + 1) * len(processors) // ranks)
    os.sched_setaffinity(0, processors[first:last])


class Mpi:
    """An MPI library that bench/mpi_library.c was compiled with.

    Attributes:
        name: The name in the report.
    """

    def __init__(self, name: str, path: str) -> None:
        """Joins the job of mpiexec and sets the environment as torchrun would."""
        self.name = name
        self._library = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        rank, ranks = ctypes.c_int(), ctypes.c_int()
        self._check(self._library.mpi_join(ctypes.byref(rank), ctypes.byref(ranks)))
        os.environ |= {"RANK": str(rank.value), "WORLD_SIZE": str(ranks.value)}

    def behind(self, name: str, case: Case, fake: dist.ProcessGroup) -> Call:
        """Returns the call of a collective: torch's on a group of `fake`, then MPI's."""
        call = PREPARE[name](case)
        torch_call = PREPARE[name](dataclasses.replace(case, group=fake, count=1)).run
        function = getattr(self._library, f"mpi_{name}")
        tensors = call.inputs[0].tensor, call.outputs[0].tensor
        source, target = (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)

        def run() -> None:
            torch_call()
            self._check(function(source, target, case.count))

        return dataclasses.replace(call, run=run)

    def leave(self) -> None:
        """Leaves the job."""
        self._check(self._library.mpi_leave())

    def _check(self, error: int) -> None:
        if error:
            raise RuntimeError(f"{self.name} returned the error {error}")


class Rank:
    """Measures entries as one rank of a job."""

    def __init__(self, job: Job, seconds: float, touch: bool, mpi: Mpi | None) -> None:
        """Takes the time per entry and backend, and whether to write inputs before each call.

        With `mpi`, that library is measured, and not the backends.
        """
        self._job, self._mpi = job, mpi
        self._seconds, self._touch = seconds, touch

    def measure(self, entry: str) -> None:
        """Measures one COLLECTIVE:DTYPE:BYTES on every backend; rank 0 prints the results."""
        job = self._job
        name, dtype_name, size = entry.split(":")
        collective, dtype = COLLECTIVES[name], getattr(torch, dtype_name)
        groups = job.groups
        if self._mpi is not None:
            groups = {f"{self._mpi.name}_behind_torch": job.groups["fastgpu"]}
        for peer, group in groups.items():
            case = Case(
                group=group,
                rank=job.rank,
                world_size=job.world_size,
                root=0,
                dtype=dtype,
                reduction="sum" if collective.reduces else "none",
                count=collective.count(int(size), dtype.itemsize, job.world_size),
                in_place=collective.placements[0] == "in",
            )
            if self._mpi is None:
                call = PREPARE[name](case)
            else:
                call = self._mpi.behind(name, case, job.groups["fake"])
            wrong = job.exchange.total(call.check(0.0))
            separate = self._touch or not collective.synchronizes
            times, mean, cpu = self._times(call, group, separate)
            row = {
                "peer": peer,
                "op": name,
                "dtype": dtype_name,
                "bytes": int(size),
                "n": job.world_size,
                "iters": len(times),
                "ok": wrong == 0,
                "p50_us": round(sorted(times)[len(times) // 2] * 1e6, 3),
                "mean_us": round(mean * 1e6, 3),
                "cpu_user_s": round(cpu, 6),
                "cpu_sys_s": 0,
            }
            if job.rank == 0:
                print("@@ " + json.dumps(row), flush=True)

    def _times(
        self, call: Call, group: dist.ProcessGroup, separate: bool
    ) -> tuple[list[float], float, float]:
        """Returns the slowest rank's times and mean, and the processor time of all ranks."""

        def timed() -> float:
            if self._touch:
                for content in call.inputs:
                    content.tensor.zero_()
            if separate:
                dist.barrier(group)
            start = time.perf_counter()
            call.run()
            return time.perf_counter() - start

        exchange = self._job.exchange
        least = 1e9
        for _ in range(WARM_UPS):
            dist.barrier(group)
            least = min(least, timed())
        least = exchange.slowest([least])[0]
        calls = min(max(int(self._seconds / least), FEWEST_CALLS), MOST_CALLS)
        for _ in range(min(int(SETTLE_S / least), MOST_CALLS)):
            timed()
        dist.barrier(group)
        before = cpu_seconds()
        times = [timed() for _ in range(calls)]
        spent = cpu_seconds() - before
        mean = exchange.slowest([sum(times) / calls])[0]
        return exchange.slowest(times), mean, exchange.total(spent)


def main() -> int:
    """Starts the ranks, or runs as one of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("entries", nargs="+", metavar="COLLECTIVE:DTYPE:BYTES")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--backends", default="fastgpu,gloo")
    parser.add_argument("--seconds", type=float, default=0.25, help="per entry and backend")
    parser.add_argument("--touch", action="store_true", help="write the inputs before each call")
    parser.add_argument("--mpi", metavar="NAME=LIBRARY", help="measure this MPI; under its mpiexec")
    arguments = parser.parse_args()
    assert fastgpu_comm.__name__ in sys.modules  # it registers the backend
    mpi = Mpi(*arguments.mpi.split("=", 1)) if arguments.mpi else None
    if not launch.is_rank():
        return launch.launch([sys.executable, *sys.argv], arguments.ranks)
    if mpi is None:
        bind()
    job = Job(["fastgpu", "fake"] if mpi else arguments.backends.split(","), TIMEOUT)
    rank = Rank(job, arguments.seconds, arguments.touch, mpi)
    for entry in arguments.entries:
        if mpi is None or entry.split(":")[1] == "float32":
            rank.measure(entry)
    job.leave()
    if mpi is not None:
        mpi.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
