"""What collectives cost through torch.distributed: one line of JSON an entry and backend.

    python bench/torch_rank.py --ranks 2 --backends fastgpu,gloo all_reduce:float32:4096 ...

The calls, sizes and lines are those of fastgpu_bench_core and bench/mpi_collectives.c, so that
bench/peers.py can hold them against each other. The backends take turns in the same processes.
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
from fastgpu_comm.bench.collectives import COLLECTIVES, Call, Case
from fastgpu_comm.bench.exchange import Exchange

MOST_CALLS, FEWEST_CALLS, WARM_UPS = 3000, 5, 3
TIMEOUT = datetime.timedelta(seconds=60)


def cpu_seconds() -> float:
    """Returns the processor time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Rank:
    """This rank's process groups, and the measuring of entries on them."""

    def __init__(self, backends: list[str], seconds: float, touch: bool) -> None:
        """Joins the job that the environment describes."""
        torch.set_num_threads(1)
        store, self._rank, self._world = next(dist.rendezvous("env://"))
        self._exchange = Exchange(dist.PrefixStore("bench", store), self._rank, self._world)
        self._seconds, self._touch = seconds, touch
        dist.init_process_group(
            backends[0],
            store=dist.PrefixStore("group", store),
            rank=self._rank,
            world_size=self._world,
            timeout=TIMEOUT,
        )
        self._groups = {name: dist.new_group(backend=name, timeout=TIMEOUT) for name in backends}

    def measure(self, entry: str) -> None:
        """Measures one COLLECTIVE:DTYPE:BYTES on every backend; rank 0 prints."""
        name, dtype_name, size = entry.split(":")
        collective, dtype = COLLECTIVES[name], getattr(torch, dtype_name)
        for backend, group in self._groups.items():
            case = Case(
                group=group,
                rank=self._rank,
                world_size=self._world,
                root=0,
                dtype=dtype,
                reduction="sum" if collective.reduces else "none",
                count=collective.count(int(size), dtype, self._world),
                in_place=collective.placements[0] == "in",
            )
            call = collective.prepare(case)
            wrong = self._exchange.total(self._count_wrong(call))
            times, cpu = self._times(call, group, apart=self._touch or not collective.meets)
            row = {
                "peer": backend,
                "op": name,
                "dtype": dtype_name,
                "bytes": int(size),
                "n": self._world,
                "iters": len(times),
                "ok": wrong == 0,
                "p50_us": round(sorted(times)[len(times) // 2] * 1e6, 3),
                "cpu_user_s": round(cpu, 6),
                "cpu_sys_s": 0,
            }
            if self._rank == 0:
                print("@@ " + json.dumps(row), flush=True)

    @staticmethod
    def _count_wrong(call: Call) -> int:
        """Makes one call that is checked; leaves zeros, which stay zeros however often summed."""
        call.fill()
        call.run()
        wrong = call.count_wrong(0.0)
        for content in call.inputs:
            content.tensor.zero_()
        return wrong

    def _times(
        self, call: Call, group: dist.ProcessGroup, apart: bool
    ) -> tuple[list[float], float]:
        """Returns the slowest rank's times, and the processor time of all ranks."""

        def timed() -> float:
            if self._touch:
                for content in call.inputs:
                    content.tensor.zero_()
            if apart:
                dist.barrier(group)
            start = time.perf_counter()
            call.run()
            return time.perf_counter() - start

        least = 1e9
        for _ in range(WARM_UPS):
            dist.barrier(group)
            least = min(least, timed())
        least = self._exchange.slowest([least])[0]
        calls = min(max(int(self._seconds / least), FEWEST_CALLS), MOST_CALLS)
        dist.barrier(group)
        before = cpu_seconds()
        times = [timed() for _ in range(calls)]
        spent = cpu_seconds() - before
        everyone = [float(text) for text in self._exchange.all(str(spent))]
        return self._exchange.slowest(times), sum(everyone)

    def leave(self) -> None:
        """Leaves the job, once everyone is done."""
        self._exchange.all("done")
        dist.destroy_process_group()


def main() -> int:
    """Starts the ranks, or is one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("entries", nargs="+", metavar="COLLECTIVE:DTYPE:BYTES")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--backends", default="fastgpu,gloo")
    parser.add_argument("--seconds", type=float, default=0.25, help="for an entry on a backend")
    parser.add_argument("--touch", action="store_true", help="write the inputs before each call")
    arguments = parser.parse_args()
    if not launch.is_rank():
        return launch.launch([sys.executable, *sys.argv], arguments.ranks)
    assert fastgpu_comm.__name__ in sys.modules  # which registers the backend
    rank = Rank(arguments.backends.split(","), arguments.seconds, arguments.touch)
    for entry in arguments.entries:
        rank.measure(entry)
    rank.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
