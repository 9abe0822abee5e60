"""Times the algorithm that `auto` takes against all of them: all_reduce, by world, transport, size.

    python bench/choose.py                                     # everything: make choose
    python bench/choose.py --ranks 4 --transport tcp --bytes 32K,2M    # some cells anew
    python bench/choose.py --judge                             # today's choice by the kept times

All groups of a world live in the same processes and run in turns, in another order each round, so
that other work on the machine disturbs all of them alike. A time is the slowest rank's, over as
many calls as take half a millisecond. Algorithms are compared within a round: the ratio of two of
them is the median of their ratios over the rounds. Least times would mislead: with more ranks
than cores they are strokes of luck, and an algorithm with more rounds has more of them.

Every world is started several times. Each start decides anew which ranks share a core, and
measures anew the costs by which `auto` chooses; both may change a comparison for all rounds of a
start. The table gives the geometric mean of the ratios of all starts, between the least and the
greatest.

`auto` runs the same schedule as one of the named algorithms. Their times are averaged. The
difference between the two is the error of the method; it has its own column.

Each cell is a row of the JSON file beside the table (`--rows`), so a run of some cells renews
only those. `--judge` measures nothing: it asks for today's choice with the constants of each row
and looks up how long that algorithm took. So a change of the cost model is judged in a second. (A
direct all_reduce counts with the shots that were timed.)
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
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
from fastgpu_comm.native import Constants, WorldPlan, algorithms_of, measured_constants
from fastgpu_comm.simulation import format_time

Row = dict[str, Any]
Cell = tuple[str, int, int]  # transport, world, bytes
Spread = tuple[float, float, float]  # least, mean, greatest

RESULTS = Path(__file__).parent / "results"
WORLDS = {"shm": "2,3,4,5,6,7,8", "tcp": "2,3,4,6,8"}
AUTO = "auto"
ENOUGH = 1.1  # auto over the best
CELL_SECONDS = 0.4  # of a start, all algorithms' calls of one size
BATCH_US = 500.0  # calls that take less are timed together
MOST_ROUNDS, LEAST_ROUNDS, TRIAL_ROUNDS = 101, 7, 3
HOPELESS = 2.0  # times the best in the trial: not timed further


def batch_us(data: torch.Tensor, group: dist.ProcessGroup, calls: int) -> float:
    """Returns the mean time of `calls` calls, after one that meets the others and warms caches."""
    if calls > 1:
        dist.all_reduce(data, group=group)
    start = time.perf_counter()
    for _ in range(calls):
        dist.all_reduce(data, group=group)
    return (time.perf_counter() - start) * 1e6 / calls


def slowest(times: Sequence[Sequence[float]]) -> list[list[float]]:
    """Returns, for each time, the largest of all ranks."""
    numbers = torch.tensor(times, dtype=torch.float64)
    dist.all_reduce(numbers, op=dist.ReduceOp.MAX)
    return [list(map(float, line)) for line in numbers]


def run_rounds(
    data: torch.Tensor, groups: dict[str, dist.ProcessGroup], calls: dict[str, int], rounds: int
) -> dict[str, list[float]]:
    """Returns the times of each group by round, the same on all ranks."""
    shuffle = random.Random(rounds)
    mine = []
    for _ in range(rounds):
        order = list(groups)
        shuffle.shuffle(order)
        times = {name: batch_us(data, groups[name], calls[name]) for name in order}
        mine.append([times[name] for name in groups])
    columns = zip(*slowest(mine), strict=True)
    return dict(zip(groups, map(list, columns), strict=True))


def time_cell(
    size_bytes: int, groups: dict[str, dist.ProcessGroup], same: str
) -> dict[str, list[float]]:
    """Returns the times of each group's all_reduce of `size_bytes` by round.

    Algorithms that are far behind are given up after a trial; the others' rounds are as many.
    `same` is the one that auto takes.
    """
    data = torch.zeros(size_bytes // 4)
    once = run_rounds(data, groups, dict.fromkeys(groups, 1), 3)
    calls = {name: max(1, int(BATCH_US / min(times))) for name, times in once.items()}
    trial = run_rounds(data, groups, calls, TRIAL_ROUNDS)
    middle = {name: statistics.median(times) for name, times in trial.items()}
    best = min(middle.values())
    hopeful = {
        name: group
        for name, group in groups.items()
        if name in (AUTO, same) or middle[name] < HOPELESS * best
    }
    round_us = sum(middle[name] * (calls[name] + 1) for name in hopeful)
    rounds = min(max(int(CELL_SECONDS * 1e6 / round_us), LEAST_ROUNDS), MOST_ROUNDS)
    return trial | run_rounds(data, hopeful, calls, rounds)


def chosen(cell: Cell, constants: Constants) -> tuple[str, str]:
    """Returns the algorithm that auto takes, and how, in words."""
    transport, world, size_bytes = cell
    plan = WorldPlan(
        collective="all_reduce",
        world=world,
        count=size_bytes // 4,
        element_size=4,
        host_of=[] if transport == "shm" else list(range(world)),
        one_machine=True,
    )
    algorithm, lanes, _, shots = plan.choose(constants)
    shot = {1: ", one-shot", 2: ", two-shot"}.get(shots, "")
    return algorithm, shot + (f", {lanes} lanes" if lanes > 1 else "")


def compare(times: dict[str, list[float]], same: str) -> dict[str, float]:
    """Returns what auto's schedule takes over each algorithm, in the median round."""
    pooled = [(one + other) / 2 for one, other in zip(times[AUTO], times[same], strict=True)]
    return {
        name: statistics.median([ours / us for ours, us in zip(pooled, others, strict=False)])
        for name, others in times.items()
        if name not in (AUTO, same)
    }


def measure(size_bytes: int, transport: str, groups: dict[str, dist.ProcessGroup]) -> Row:
    """Returns a start's part of a row, the same on all ranks."""
    cell = (transport, dist.get_world_size(), size_bytes)
    same, how = chosen(cell, measured_constants())
    times = time_cell(size_bytes, groups, same)
    pairs = zip(times[AUTO], times[same], strict=True)
    return {
        "chosen": same,
        "how": how,
        "rounds": len(times[AUTO]),
        "times_us": {name: round(statistics.median(us), 3) for name, us in times.items()},
        "auto_over": {name: round(us, 4) for name, us in compare(times, same).items()},
        "auto_over_same": round(statistics.median([one / other for one, other in pairs]), 4),
        "constants": measured_constants().text(),
    }


def run_rank(transport: str, sizes: Sequence[int], rows: Path) -> None:
    """Times all cells of this world; rank 0 puts them among the rows."""
    dist.init_process_group("fastgpu", pg_options=fastgpu_comm.Options(transport=transport))
    algorithms = [name for name in algorithms_of("all_reduce") if name != "hierarchical"]
    groups = {}
    for name in (AUTO, *algorithms):
        options = fastgpu_comm.Options(algorithm=name, transport=transport)
        groups[name] = dist.new_group(backend="fastgpu", pg_options=options)
    for size in sizes:
        start = measure(size, transport, groups)
        if dist.get_rank() == 0:
            row = {"transport": transport, "world": dist.get_world_size(), "bytes": size}
            keep(row | {"starts": [start]}, rows)
    dist.destroy_process_group()


def key(row: Row) -> Cell:
    """Returns what a row is about; rows sort by it."""
    return (row["transport"], row["world"], row["bytes"])


def load(path: Path) -> dict[Cell, Row]:
    """Returns the rows of the file, if there is one."""
    rows = json.loads(path.read_text()) if path.exists() else []
    return {key(row): row for row in rows}


def store(cells: dict[Cell, Row], path: Path) -> None:
    """Writes the rows, sorted, one a line."""
    lines = [json.dumps(cells[cell]) for cell in sorted(cells)]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def keep(found: Row, path: Path) -> None:
    """Adds a start to this cell's row in the file."""
    cells = load(path)
    known = cells.setdefault(key(found), found | {"starts": []})
    known["starts"] += found["starts"]
    store(cells, path)


def judged(row: Row) -> Row:
    """Returns the row as if its starts had taken today's choice."""
    starts = []
    for start in row["starts"]:
        relative = {start["chosen"]: 1.0}  # time over that of the choice of then
        relative |= {name: 1 / ratio for name, ratio in start["auto_over"].items()}
        now, how = chosen(key(row), Constants.from_text(start["constants"]))
        ratios = {name: relative[now] / us for name, us in relative.items() if name != now}
        starts.append(start | {"chosen": now, "how": how, "auto_over": ratios})
    return row | {"starts": starts}


def over(row: Row, name: str) -> Spread:
    """Returns what the choice takes over an algorithm: the mean of all starts, least to greatest.

    A start in which it is the choice counts as 1.
    """
    ratios = [start["auto_over"].get(name, 1.0) for start in row["starts"]]
    return min(ratios), statistics.geometric_mean(ratios), max(ratios)


def names_of(row: Row) -> list[str]:
    """Returns the algorithms that a row compares."""
    return [name for name in row["starts"][0]["times_us"] if name != AUTO]


def worst(row: Row) -> Spread:
    """Returns the choice over the best algorithm; 1.00 where the choice is the best."""
    low, middle, high = max((over(row, name) for name in names_of(row)), key=lambda each: each[1])
    return (low, middle, high) if middle > 1 else (1.0, 1.0, 1.0)


def verdict(row: Row) -> str:
    """Returns whether a cell holds, with a question mark where starts disagree."""
    low, middle, high = worst(row)
    doubt = "?" if low <= ENOUGH < high else ""
    return ("yes" if middle <= ENOUGH else "no") + doubt


def error(row: Row) -> float:
    """Returns how much equal schedules differ in this cell."""
    ratios = [start["auto_over_same"] for start in row["starts"]]
    return abs(statistics.geometric_mean(ratios) - 1)


def line(row: Row) -> str:
    """Returns a row of the table, in markdown; algorithms that some start chose are bold."""
    taken = {start["chosen"]: start["how"] for start in row["starts"]}
    cells = []
    for name in names_of(row):
        text = format_time(statistics.median(start["times_us"][name] for start in row["starts"]))
        cells.append(f"**{text}**" if name in taken else text)
    low, middle, high = worst(row)
    ways = "; ".join(name + how for name, how in taken.items())
    return (
        f"| {format_size(row['bytes'])} | {' | '.join(cells)} | {ways} "
        f"| {middle:.2f} ({low:.2f} to {high:.2f}) | {verdict(row)} | {error(row):.0%} |"
    )


def summary(rows: Sequence[Row]) -> str:
    """Returns the lines above the tables."""
    verdicts = [verdict(row) for row in rows]
    holds = sum(each.startswith("yes") for each in verdicts)
    errors = [error(row) for row in rows]
    starts = min(len(row["starts"]) for row in rows)
    return (
        f"`make choose` on {describe()['cpu']}: all_reduce of float32 through torch, medians of "
        "the slowest rank's time, what `auto` chose in bold. *Over best*: its schedule's time over "
        "the best algorithm's in the same round, the median round; the mean of "
        f"{starts} or more starts of the ranks, and between which those lie. *Differ*: `auto` and "
        "the same algorithm asked for by name run equal schedules; so much their times differ, "
        "which is what the method errs by.\n\n"
        f"The choice is at most 10 % slower than the best in **{holds} of {len(rows)}** cells. "
        f"Starts disagree about that in {verdicts.count('yes?')} of these (yes?) and in "
        f"{verdicts.count('no?')} of the other {len(rows) - holds} (no?). At worst it takes "
        f"{max(worst(row)[1] for row in rows):.2f} times the best's time, in the mean "
        f"{statistics.geometric_mean([worst(row)[1] for row in rows]):.3f}. Equal schedules differ "
        f"by {statistics.median(errors):.1%} in the middle cell, by {max(errors):.0%} in the "
        "worst.\n"
    )


def report(rows: Sequence[Row]) -> str:
    """Returns the page: the tables, by transport and world."""
    parts = ["# The choice against every algorithm\n", summary(rows)]
    for transport, world in sorted({key(row)[:2] for row in rows}):
        cells = [row for row in rows if key(row)[:2] == (transport, world)]
        names = names_of(cells[0])
        parts.append(f"## {world} ranks over {transport}\n")
        parts.append(f"| bytes | {' | '.join(names)} | auto takes | over best | holds | differ |")
        parts.append("| --- |" + " --- |" * (len(names) + 4))
        parts.extend(line(row) for row in cells)
        parts.append("")
    return "\n".join(parts)


def judge(rows: Sequence[Row]) -> None:
    """Prints the cells in which the choice is too slow, and how many there are."""
    for row in rows:
        if worst(row)[1] > ENOUGH:
            print(*key(row), line(row))
    ratios = [worst(row)[1] for row in rows]
    print(
        f"at most 10 % slower than the best in {sum(ratio <= ENOUGH for ratio in ratios)} of "
        f"{len(rows)} cells; at worst {max(ratios):.2f} times the best's time, in the mean "
        f"{statistics.geometric_mean(ratios):.3f}"
    )


def main() -> int:
    """Runs the command: once for each cell of worlds and transports, as ranks of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", help="worlds, one after the other; by default up to 8")
    parser.add_argument("--transport", default="shm,tcp")
    parser.add_argument("--bytes", default="8,64,512,4K,32K,256K,1M,4M,16M,64M")
    parser.add_argument("--starts", type=int, default=3, help="of each world")
    parser.add_argument(
        "--rows",
        type=Path,
        default=RESULTS / "choose.json",
        help="to renew the measured ones of; the table is written beside it",
    )
    parser.add_argument("--judge", action="store_true", help="today's choice by the kept times")
    arguments = parser.parse_args()
    if arguments.judge:
        judge([judged(row) for row in load(arguments.rows).values()])
        return 0
    sizes = [parse_size(size) for size in arguments.bytes.split(",")]
    if launch.is_rank():
        run_rank(arguments.transport, sizes, arguments.rows)
        return 0
    for transport in arguments.transport.split(","):
        for world in map(int, (arguments.ranks or WORLDS[transport]).split(",")):
            mine = {(transport, world, size) for size in sizes}
            store(
                {cell: row for cell, row in load(arguments.rows).items() if cell not in mine},
                arguments.rows,
            )
            command = [sys.executable, *sys.argv, "--transport", transport]
            for _ in range(arguments.starts):
                if status := launch.launch(command, world):
                    return status
            for cell, row in load(arguments.rows).items():
                if cell in mine:
                    print(f"{transport} {world} {line(row)}", flush=True)
    arguments.rows.with_suffix(".md").write_text(report(list(load(arguments.rows).values())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
