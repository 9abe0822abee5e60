"""Holds the model's times against measured ones: all_reduce on 2 to 4 ranks of this machine.

    python bench/model_check.py --ranks 2,3,4 --bytes 1K,64K,1M,16M --transport shm

Two ranks first measure the link (a small and a large message there and back) and memory; the text
of these costs is printed, and `fastgpu-comm simulate --constants` takes it. What a call costs with
nobody to talk to (Python, torch) is measured apart and added to the simulated times. Then each
algorithm runs in a group of its own, sizes in turn, and a line shows the slowest rank's median
beside the simulated time. A busy machine measures itself: run this on a quiet one.
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
from fastgpu_comm.native import Constants, Machine, WorldPlan, algorithms_of
from fastgpu_comm.simulation import format_time

ROUNDS = 30
LARGE_BYTES = 1 << 20
# How a small message's time divides: the wire's share, and the share of a processor at either end;
# and the share of a large one's time a byte that a processor spends on it.
ALPHA_SHARE, OVERHEAD_SHARE, CPU_SHARE = 0.6, 0.2, 0.8


def median_us(call: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Returns the median time of `call`, after two calls that do not count."""
    times = []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times[2:])


def round_trip(size_bytes: int) -> float:
    """Returns the time of a message between ranks 0 and 1, one way."""
    data = torch.zeros(size_bytes, dtype=torch.uint8)

    def there_and_back() -> None:
        for sender in (0, 1):
            if dist.get_rank() == sender:
                dist.send(data, 1 - sender)
            else:
                dist.recv(data, sender)

    return median_us(there_and_back) / 2


def call_us() -> float:
    """Returns what an all_reduce of this rank alone takes."""
    for rank in range(dist.get_world_size()):
        alone = dist.new_group([rank], backend="fastgpu")
        if rank == dist.get_rank():
            mine = alone
    data = torch.zeros(2)
    return median_us(lambda: dist.all_reduce(data, group=mine), 10 * ROUNDS)


def measure(transport: str, call_us: float) -> Constants:
    """Returns the costs as ranks 0 and 1 find them; the same on every rank."""
    constants = Constants()
    text = [""]
    if dist.get_rank() < 2:
        small, large = (round_trip(size) - call_us for size in (8, LARGE_BYTES))
        small = max(small, 0.1)
        link = constants.same_host if transport == "shm" else constants.between_hosts
        per_byte = max(large - small, 0.0) / LARGE_BYTES
        link.alpha_us = ALPHA_SHARE * small
        link.overhead_us = OVERHEAD_SHARE * small
        link.beta_us_per_byte = per_byte
        link.cpu_us_per_byte = CPU_SHARE * per_byte
        constants.nic_us_per_byte = 0.0  # nothing leaves this machine
        source, target = torch.zeros(LARGE_BYTES // 4), torch.zeros(LARGE_BYTES // 4)
        copy = median_us(lambda: target.copy_(source)) / LARGE_BYTES
        add = median_us(lambda: target.add_(source)) / LARGE_BYTES
        constants.copy_us_per_byte = copy
        constants.reduce_us_per_byte = max(add - copy, 0.0)
        text = [constants.text()]
    dist.broadcast_object_list(text, src=0)
    return Constants.from_text(text[0])


def slowest(time_us: float) -> float:
    """Returns the largest of all ranks' numbers."""
    number = torch.tensor([time_us])
    dist.all_reduce(number, op=dist.ReduceOp.MAX)
    return float(number)


def simulated(algorithm: str, size_bytes: int, constants: Constants, transport: str) -> float:
    """Returns the model's time. Over TCP every rank counts as a host, but shares these cores."""
    world = dist.get_world_size()
    plan = WorldPlan(
        collective="all_reduce",
        algorithm=algorithm,
        world=world,
        count=size_bytes // 4,
        element_size=4,
        host_of=[] if transport == "shm" else list(range(world)),
    )
    crowding = max(1.0, world / len(os.sched_getaffinity(0)))
    machine = Machine(constants=constants, rank_slowness=[crowding] * world)
    return float(plan.simulate(machine).end_us)


def compare(sizes: list[int], transport: str) -> Iterator[str]:
    """Measures every algorithm and size; yields the lines to print."""
    call = call_us()
    constants = measure(transport, call)
    yield f"# {dist.get_world_size()} ranks over {transport}: {constants.text()}"
    yield f"# a call by itself: {format_time(call)}"
    yield f"{'bytes':>8} {'algorithm':>12} {'measured':>10} {'simulated':>10} {'ratio':>6}"
    for algorithm in algorithms_of("all_reduce"):
        options = fastgpu_comm.Options(algorithm=algorithm, transport=transport, lanes=1)
        group = dist.new_group(backend="fastgpu", pg_options=options)
        for size in sizes:
            data = torch.zeros(size // 4)
            measured = slowest(median_us(partial(dist.all_reduce, data, group=group)))
            expected = call + simulated(algorithm, size, constants, transport)
            yield (
                f"{format_size(size):>8} {algorithm:>12} {format_time(measured):>10} "
                f"{format_time(expected):>10} {measured / expected:>6.2f}"
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
