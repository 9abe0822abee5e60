"""Measures collectives through torch.distributed: a line of JSON per entry and backend.

    python bench/torch_rank.py --ranks 2 --backends fastgpu,gloo all_reduce:float32:4096 ...

It makes the same calls and prints the same lines as fastgpu_bench_core and bench/mpi_collectives.c,
so that bench/peers.py can compare them. The backends take turns in the same processes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import sys
import time

import torch
import torch.distributed as dist

import fastgpu_comm
from fastgpu_comm import launch
from fastgpu_comm.bench.calls import PREPARE, Call, Case
from fastgpu_comm.bench.job import Job
from fastgpu_comm.collectives import COLLECTIVES

MOST_CALLS, FEWEST_CALLS, WARM_UPS = 3000, 5, 3
TIMEOUT = datetime.timedelta(seconds=60)


def cpu_seconds() -> float:
    """Returns the processor time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Rank:
    """Measures entries as one rank of a job."""

    def __init__(self, job: Job, seconds: float, touch: bool) -> None:
        """Takes the time per entry and backend, and whether to write inputs before each call."""
        self._job = job
        self._seconds, self._touch = seconds, touch

    def measure(self, entry: str) -> None:
        """Measures one COLLECTIVE:DTYPE:BYTES on every backend; rank 0 prints the results."""
        job = self._job
        name, dtype_name, size = entry.split(":")
        collective, dtype = COLLECTIVES[name], getattr(torch, dtype_name)
        for backend, group in job.groups.items():
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
            call = PREPARE[name](case)
            wrong = job.exchange.total(call.check(0.0))
            separate = self._touch or not collective.synchronizes
            times, cpu = self._times(call, group, separate)
            row = {
                "peer": backend,
                "op": name,
                "dtype": dtype_name,
                "bytes": int(size),
                "n": job.world_size,
                "iters": len(times),
                "ok": wrong == 0,
                "p50_us": round(sorted(times)[len(times) // 2] * 1e6, 3),
                "cpu_user_s": round(cpu, 6),
                "cpu_sys_s": 0,
            }
            if job.rank == 0:
                print("@@ " + json.dumps(row), flush=True)

    def _times(
        self, call: Call, group: dist.ProcessGroup, separate: bool
    ) -> tuple[list[float], float]:
        """Returns the slowest rank's times, and the processor time of all ranks."""

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
        dist.barrier(group)
        before = cpu_seconds()
        times = [timed() for _ in range(calls)]
        spent = cpu_seconds() - before
        return exchange.slowest(times), exchange.total(spent)


def main() -> int:
    """Starts the ranks, or runs as one of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("entries", nargs="+", metavar="COLLECTIVE:DTYPE:BYTES")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--backends", default="fastgpu,gloo")
    parser.add_argument("--seconds", type=float, default=0.25, help="per entry and backend")
    parser.add_argument("--touch", action="store_true", help="write the inputs before each call")
    arguments = parser.parse_args()
    if not launch.is_rank():
        return launch.launch([sys.executable, *sys.argv], arguments.ranks)
    assert fastgpu_comm.__name__ in sys.modules  # it registers the backend
    job = Job(arguments.backends.split(","), TIMEOUT)
    rank = Rank(job, arguments.seconds, arguments.touch)
    for entry in arguments.entries:
        rank.measure(entry)
    job.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
