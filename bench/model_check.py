"""Holds the model's times against measured ones: all_reduce on 2 to 4 ranks of this machine.

    python bench/model_check.py --ranks 2,3,4 --bytes 1K,64K,1M,16M --transport shm

The costs are those that the library measured at set-up, and chooses by; their text is printed, and
`fastgpu-comm simulate --constants` takes it. What a call costs with nobody to talk to (Python,
torch) is measured apart and added to the simulated times. Each algorithm runs in a group of its
own, sizes in turn; a line shows the median and the least of the slowest rank's times beside the
simulated one. Ranks are bound to cores in turn. A busy machine measures itself: run this on a quiet
one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.distributed as dist

import fastgpu_comm
from fastgpu_comm import launch
from fastgpu_comm.bench.sizes import format_size, parse_size
from fastgpu_comm.native import Constants, Machine, WorldPlan, algorithms_of, measured_constants
from fastgpu_comm.simulation import format_time

ROUNDS = 60


def times_us(call: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Returns the times of `call`, after two calls that do not count."""
    times = []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e6)
    return times[2:]


def call_us() -> float:
    """Returns what an all_reduce of this rank alone takes."""
    for rank in range(dist.get_world_size()):
        alone = dist.new_group([rank], backend="fastgpu")
        if rank == dist.get_rank():
            mine = alone
    data = torch.zeros(2)
    return statistics.median(times_us(lambda: dist.all_reduce(data, group=mine), 10 * ROUNDS))


def slowest(times: list[float]) -> list[float]:
    """Returns, call by call, the time of the rank that took longest."""
    numbers = torch.tensor(times)
    dist.all_reduce(numbers, op=dist.ReduceOp.MAX)
    return list(map(float, numbers))


def simulated(algorithm: str, size_bytes: int, constants: Constants, transport: str) -> float:
    """Returns the model's time. Over TCP every rank counts as a host of this one machine."""
    world = dist.get_world_size()
    plan = WorldPlan(
        collective="all_reduce",
        algorithm=algorithm,
        world=world,
        count=size_bytes // 4,
        element_size=4,
        host_of=[] if transport == "shm" else list(range(world)),
        one_machine=True,
    )
    return float(plan.simulate(Machine(constants=constants)).end_us)


def compare(sizes: list[int], transport: str) -> Iterator[str]:
    """Measures every algorithm and size; yields the lines to print."""
    # Ranks on one core make their calls one after the other.
    cores = len(os.sched_getaffinity(os.getppid()))
    call = call_us() * max(1.0, dist.get_world_size() / cores)
    constants = measured_constants()
    constants.nic_us_per_byte = 0.0  # nothing leaves this machine
    yield f"# {dist.get_world_size()} ranks over {transport}: {constants.text()}"
    yield f"# what calls cost by themselves: {format_time(call)}"
    yield "   bytes    algorithm     median      least  simulated  ratio"
    for algorithm in algorithms_of("all_reduce"):
        options = fastgpu_comm.Options(algorithm=algorithm, transport=transport, lanes=1)
        group = dist.new_group(backend="fastgpu", pg_options=options)
        for size in sizes:
            data = torch.zeros(size // 4)
            measured = slowest(times_us(partial(dist.all_reduce, data, group=group)))
            median, least = statistics.median(measured), min(measured)
            expected = call + simulated(algorithm, size, constants, transport)
            yield (
                f"{format_size(size):>8} {algorithm:>12} {format_time(median):>10} "
                f"{format_time(least):>10} {format_time(expected):>10} {median / expected:>6.2f}"
            )


def main() -> int:
    """Runs the command: once for each world, which starts this program again as its ranks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", default="2,3,4", help="worlds, one after the other")
    parser.add_argument("--bytes", default="1K,64K,1M,16M")
    parser.add_argument("--transport", choices=("shm", "tcp"), default="shm")
    arguments = parser.parse_args()
    if not launch.is_rank():
        command = [sys.executable, *sys.argv]
        return max(launch.launch(command, int(world)) for world in arguments.ranks.split(","))
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["RANK"]) % len(cores)]})
    options = fastgpu_comm.Options(transport=arguments.transport)
    dist.init_process_group("fastgpu", pg_options=options)
    for line in compare(
        [parse_size(size) for size in arguments.bytes.split(",")], arguments.transport
    ):
        if dist.get_rank() == 0:
            print(line, flush=True)
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
