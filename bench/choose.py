"""Times what `auto` takes against every algorithm: all_reduce, by world, transport and size.

    python bench/choose.py --ranks 2,4,8 --transport shm,tcp --bytes 8,128,2K,32K,512K,8M,64M

All groups of a world live in the same processes, and their calls take turns, so that whatever else
the machine does meets all of them. A time is the slowest rank's, and the least of many rounds: what
an algorithm takes when nothing disturbs it. Each cell is kept as a row of the JSON file beside the
table (`--rows`), so that a run of some worlds renews only theirs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import fastgpu_comm
from fastgpu_comm import launch
from fastgpu_comm.bench.machine import describe
from fastgpu_comm.bench.sizes import format_size, parse_size
from fastgpu_comm.native import WorldPlan, algorithms_of, measured_constants
from fastgpu_comm.simulation import format_time

Row = dict[str, Any]

RESULTS = Path(__file__).parent / "results"
AUTO = "auto"
CELL_SECONDS = 0.8  # of all algorithms' calls of one size
BATCH_US = 200.0  # calls that take less are timed together
MOST_ROUNDS, LEAST_ROUNDS = 400, 4
WORTH_A_TURN = 20.0  # times the best: an algorithm that takes longer is timed in few rounds only


def batch_us(data: torch.Tensor, group: dist.ProcessGroup, calls: int) -> float:
    """Returns the mean time of `calls` calls, one after the other."""
    start = time.perf_counter()
    for _ in range(calls):
        dist.all_reduce(data, group=group)
    return (time.perf_counter() - start) * 1e6 / calls


def slowest(times: Sequence[float]) -> list[float]:
    """Returns, for each time, the largest of all ranks."""
    numbers = torch.tensor(times, dtype=torch.float64)
    dist.all_reduce(numbers, op=dist.ReduceOp.MAX)
    return [float(number) for number in numbers]


def time_cell(size_bytes: int, groups: dict[str, dist.ProcessGroup]) -> dict[str, float]:
    """Returns the least time of each group's all_reduce of `size_bytes`, the same on all ranks."""
    data = torch.zeros(size_bytes // 4)
    first = slowest([min(batch_us(data, group, 1) for _ in range(3)) for group in groups.values()])
    quick = min(first)
    calls = [max(1, int(BATCH_US / us)) for us in first]
    taken = [us * count for us, count in zip(first, calls, strict=True)]
    rounds = int(CELL_SECONDS * 1e6 / sum(taken))
    least = dict(zip(groups, first, strict=True))
    for turn in range(min(max(rounds, LEAST_ROUNDS), MOST_ROUNDS)):
        timed = [
            (name, count)
            for name, count, us in zip(groups, calls, first, strict=True)
            if us < WORTH_A_TURN * quick or turn < LEAST_ROUNDS
        ]
        if turn % 2:
            timed.reverse()
        times = slowest([batch_us(data, groups[name], count) for name, count in timed])
        for (name, _), us in zip(timed, times, strict=True):
            least[name] = min(least[name], us)
    return least


def chosen(size_bytes: int, transport: str) -> str:
    """Returns what auto takes, in words."""
    world = dist.get_world_size()
    plan = WorldPlan(
        collective="all_reduce",
        world=world,
        count=size_bytes // 4,
        element_size=4,
        host_of=[] if transport == "shm" else list(range(world)),
        one_machine=True,
    )
    algorithm, lanes, _, shots = plan.choose(measured_constants())
    shot = {1: ", one-shot", 2: ", two-shot"}.get(shots, "")
    return f"{algorithm}{shot}" + (f", {lanes} lanes" if lanes > 1 else "")


def run_rank(transport: str, sizes: Sequence[int], rows: Path) -> None:
    """Times all cells of this world; rank 0 puts them among the rows."""
    dist.init_process_group("fastgpu", pg_options=fastgpu_comm.Options(transport=transport))
    algorithms = [name for name in algorithms_of("all_reduce") if name != "hierarchical"]
    groups = {}
    for name in (AUTO, *algorithms):
        options = fastgpu_comm.Options(algorithm=name, transport=transport)
        groups[name] = dist.new_group(backend="fastgpu", pg_options=options)
    found = []
    for size in sizes:
        times = time_cell(size, groups)
        row = {
            "world": dist.get_world_size(),
            "transport": transport,
            "bytes": size,
            "chosen": chosen(size, transport),
            "times_us": times,
        }
        found.append(row)
        if dist.get_rank() == 0:
            print(line(row), flush=True)
    if dist.get_rank() == 0:
        print(measured_constants().text(), flush=True)
        keep(found, rows)
    dist.destroy_process_group()


def key(row: Row) -> tuple[str, int, int]:
    """Returns what a row is about; rows sort by it."""
    return (row["transport"], row["world"], row["bytes"])


def keep(found: Sequence[Row], path: Path) -> None:
    """Renews the rows of these cells in the file."""
    known = json.loads(path.read_text()) if path.exists() else []
    cells = {key(row): row for row in [*known, *found]}
    path.write_text(json.dumps([cells[cell] for cell in sorted(cells)], indent=1) + "\n")


def ratio(row: Row) -> float:
    """Returns auto's time to the best algorithm's."""
    times = row["times_us"]
    return float(times[AUTO] / min(us for name, us in times.items() if name != AUTO))


def line(row: Row) -> str:
    """Returns a row of the table, in markdown; the best algorithm bold."""
    times = row["times_us"]
    names = [name for name in times if name != AUTO]
    best = min(names, key=times.__getitem__)
    cells = [f"**{format_time(times[n])}**" if n == best else format_time(times[n]) for n in names]
    return (
        f"| {format_size(row['bytes'])} | {' | '.join(cells)} | {format_time(times[AUTO])} "
        f"| {row['chosen']} | {ratio(row):.2f} |"
    )


def report(rows: Sequence[Row]) -> str:
    """Returns the tables, by transport and world."""
    ratios = [ratio(row) for row in rows]
    within = sum(value <= 1.1 for value in ratios)
    parts = [
        "# auto against every algorithm\n",
        f"`python bench/choose.py` on {describe()['cpu']}: all_reduce of "
        "float32, the slowest rank's time, the least of many rounds in which all take turns. "
        "With more ranks than cores, ranks take turns as well, and times scatter.\n",
        f"auto is at most 10 % slower than the best in {within} of {len(rows)} cells; "
        f"at worst {max(ratios):.2f} times its time.\n",
    ]
    for transport, world in sorted({key(row)[:2] for row in rows}):
        cells = [row for row in rows if key(row)[:2] == (transport, world)]
        names = [name for name in cells[0]["times_us"] if name != AUTO]
        parts.append(f"## {world} ranks over {transport}\n")
        parts.append(f"| bytes | {' | '.join(names)} | auto | auto takes | auto / best |")
        parts.append("| --- |" + " --- |" * (len(names) + 3))
        parts.extend(line(row) for row in cells)
        parts.append("")
    return "\n".join(parts)


def main() -> int:
    """Runs the command: once for each cell of worlds and transports, as ranks of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", default="2,4,8", help="worlds, one after the other")
    parser.add_argument("--transport", default="shm,tcp")
    parser.add_argument("--bytes", default="8,128,2K,32K,512K,8M,64M")
    parser.add_argument("--rows", type=Path, default=RESULTS / "choose.json")
    arguments = parser.parse_args()
    if launch.is_rank():
        sizes = [parse_size(size) for size in arguments.bytes.split(",")]
        run_rank(arguments.transport, sizes, arguments.rows)
        return 0
    for transport in arguments.transport.split(","):
        for world in arguments.ranks.split(","):
            command = [sys.executable, *sys.argv, "--transport", transport]
            if status := launch.launch(command, int(world)):
                return status
    rows = json.loads(arguments.rows.read_text())
    arguments.rows.with_suffix(".md").write_text(report(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
