"""The report of bench/peers.py: times, ratios to the best peer and the floor, processor time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from fastgpu_comm.bench import markdown
from fastgpu_comm.bench.sizes import format_size

OWN = ("private", "symmetric", "fastgpu")
BEHIND_TORCH = "_behind_torch"  # ends the names of MPIs that were called through torch
FLOORS = ("floor_private", "floor_symmetric")
EXPLANATION = """\
    python bench/peers.py

Times are in microseconds: the median over rounds of the median over a round's calls, where a call
takes as long as its slowest rank. All programs ran in every round. A ratio compares times of the
same round, and the table has its median over rounds. Every rank is bound to its share of the
processors. `private` and `symmetric` are fastgpu below torch, with buffers in private or symmetric
memory; `fastgpu` and `gloo` are called through torch.distributed, and an MPI `behind torch` follows
the same call, made on a backend that does nothing. Sizes are those of nccl-tests. Every result was
checked. `floor` is the least time that two processes need to copy, add and synchronise
(bench/bounds.cpp). `least` compares the fastest round with the fastest round of any peer. `mean`
compares the means of the calls' times: with more ranks than processors, a rank may be quick in one
call and slow in the next. Two processors of a virtual machine may be two threads of one core at one
time, and distant cores at another; then the medians mix both cases, and with many rounds `least`
shows the first.
"""

CHANGES = """\
    python bench/peers.py --before CHECKOUT

Two versions of fastgpu below torch, in the same rounds. Times are in microseconds: the median over
rounds of a round's median call. `after / before` is the median over rounds of the ratio within a
round, and `least` compares the fastest rounds of both.
"""
BEFORE = "_before"  # ends the names of the other version's rows

Entry = tuple[str, str, int]
Value = Callable[[dict[str, Any]], float]


class Rows:
    """The rows of one number of ranks."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        """Sorts `rows` by entry, round and peer."""
        self.entries: dict[Entry, dict[int, dict[str, dict[str, Any]]]] = {}
        self.peers: dict[str, None] = {}
        for row in rows:
            entry = (row["op"], row["dtype"], row["bytes"])
            self.entries.setdefault(entry, {}).setdefault(row["round"], {})[row["peer"]] = row
            self.peers[row["peer"]] = None

    def others(self) -> list[str]:
        """Returns the peers of fastgpu below torch."""
        return [
            peer
            for peer in self.peers
            if peer not in (*OWN, *FLOORS) and not peer.endswith(BEHIND_TORCH)
        ]

    def behind_torch(self) -> list[str]:
        """Returns the MPIs that were called through torch."""
        return [peer for peer in self.peers if peer.endswith(BEHIND_TORCH)]

    def spread(self, entry: Entry, peer: str) -> tuple[float, float] | None:
        """Returns the least and the greatest time of a peer's rounds, each a start of its own."""
        rounds = self.entries[entry].values()
        times = [time_us(rows[peer]) for rows in rounds if peer in rows]
        return (min(times), max(times)) if times else None

    def median(self, entry: Entry, peer: str, value: Value) -> float | None:
        """Returns the median over rounds of a peer's value, or None if it was not measured."""
        rounds = self.entries[entry].values()
        values = [value(rows[peer]) for rows in rounds if peer in rows]
        return statistics.median(values) if values else None

    def best(self, entry: Entry, value: Value) -> tuple[str, float] | None:
        """Returns the peer with the least median, and the median."""
        medians = [(peer, self.median(entry, peer, value)) for peer in self.others()]
        known = [(peer, median) for peer, median in medians if median is not None]
        return min(known, key=lambda pair: pair[1], default=None)

    def ratio_of_least(self, entry: Entry, peer: str, to: Sequence[str]) -> float | None:
        """Returns the peer's least time over the least time of `to`."""
        rounds = self.entries[entry].values()
        own = [rows[peer]["p50_us"] for rows in rounds if peer in rows]
        others = [rows[name]["p50_us"] for rows in rounds for name in to if name in rows]
        return min(own) / min(others) if own and others else None

    def ratio(
        self, entry: Entry, peer: str, to: Sequence[str], value: Value | None = None
    ) -> float | None:
        """Returns the median over rounds of the peer's value over the least value of `to`."""
        value = value or time_us
        ratios = []
        for rows in self.entries[entry].values():
            others = [value(rows[name]) for name in to if name in rows]
            if peer in rows and others:
                ratios.append(value(rows[peer]) / min(others))
        return statistics.median(ratios) if ratios else None


def time_us(row: dict[str, Any]) -> float:
    """Returns the median time of a call."""
    return float(row["p50_us"])


def mean_us(row: dict[str, Any]) -> float:
    """Returns the mean time of a rank's calls, of the slowest rank."""
    return float(row["mean_us"])


def seconds_per_gb(row: dict[str, Any]) -> float:
    """Returns the processor time of all ranks per 10^9 bytes of buffer."""
    spent = row["cpu_user_s"] + row["cpu_sys_s"]
    return float(spent / row["iters"] / row["bytes"] * 1e9)


def number(value: float | None) -> str:
    """Returns a number with three digits, or a dash for None."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def label(entry: Entry) -> str:
    """Returns the name of an entry in the tables."""
    op, dtype, size = entry
    return f"{op} {'' if dtype == 'float32' else dtype + ' '}{format_size(size)}"


def comparison(rows: Rows) -> str:
    """Returns a table that compares fastgpu with the best peer and the floor."""
    floors = [floor for floor in FLOORS if floor in rows.peers]
    head = ["", "private", "symmetric", "best peer", "", "private / best", "symmetric / best"]
    head += ["private, least", "symmetric, least"]
    head += [f"{floor.removeprefix('floor_')} / floor" for floor in floors]
    lines = []
    for entry in rows.entries:
        best = rows.best(entry, time_us)
        ratios = [rows.ratio(entry, own, rows.others()) for own in OWN[:2]]
        ratios += [rows.ratio_of_least(entry, own, rows.others()) for own in OWN[:2]]
        ratios += [rows.ratio(entry, floor.removeprefix("floor_"), [floor]) for floor in floors]
        own = [rows.median(entry, peer, time_us) for peer in OWN[:2]]
        named = [number(best[1]), best[0]] if best else ["-", ""]
        lines.append([label(entry), *map(number, own), *named, *map(number, ratios)])
    return markdown.table(head, lines)


def everyone(rows: Rows) -> str:
    """Returns a table of the times of all programs."""
    names = [peer for peer in (*OWN, *rows.others(), *FLOORS) if peer in rows.peers]
    lines = [
        [label(entry), *(number(rows.median(entry, peer, time_us)) for peer in names)]
        for entry in rows.entries
    ]
    return markdown.table(["", *(name.replace("_", " ") for name in names)], lines)


def through_torch(rows: Rows) -> str:
    """Returns a table of fastgpu and the MPIs, all called through torch.distributed."""
    peers = rows.behind_torch()
    head = ["", "fastgpu"]
    for peer in peers:
        mpi = peer.removesuffix(BEHIND_TORCH)
        head += [mpi, f"fastgpu / {mpi}", f"mean, fastgpu / {mpi}"]
    lines = []
    for entry in rows.entries:
        if all(rows.median(entry, peer, time_us) is None for peer in peers):
            continue
        cells = [label(entry), with_spread(rows, entry, "fastgpu")]
        for peer in peers:
            cells.append(with_spread(rows, entry, peer))
            cells += [number(rows.ratio(entry, "fastgpu", [peer], by)) for by in (time_us, mean_us)]
        lines.append(cells)
    return markdown.table(head, lines)


def with_spread(rows: Rows, entry: Entry, peer: str) -> str:
    """Returns the median of a peer's rounds, between the least and the greatest."""
    spread = rows.spread(entry, peer)
    if spread is None:
        return "-"
    median = number(rows.median(entry, peer, time_us))
    return f"{number(spread[0])} .. {median} .. {number(spread[1])}"


def processors(rows: Rows) -> str:
    """Returns a table of processor seconds per 10^9 bytes, for sizes of 64 KiB and more."""
    names = [peer for peer in (*OWN, *rows.others()) if peer in rows.peers]
    lines = [
        [label(entry), *(number(rows.median(entry, peer, seconds_per_gb)) for peer in names)]
        for entry in rows.entries
        if entry[2] >= 1 << 16
    ]
    return markdown.table(["", *names], lines)


def changes(rows: Rows) -> str:
    """Returns a table of the times before and after, and their ratios."""
    head = [""]
    for kind in OWN[:2]:
        head += [f"{kind}, before", "after", "after / before", "least"]
    lines = []
    for entry in rows.entries:
        cells: list[float | None] = []
        for kind in OWN[:2]:
            before = kind + BEFORE
            cells += [rows.median(entry, before, time_us), rows.median(entry, kind, time_us)]
            cells += [rows.ratio(entry, kind, [before]), rows.ratio_of_least(entry, kind, [before])]
        lines.append([label(entry), *map(number, cells)])
    return markdown.table(head, lines)


def write_changes(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes the comparison of two versions."""
    parts = ["# Before and after\n", CHANGES, markdown.machine_list()]
    for ranks in sorted({row["ranks"] for row in rows}):
        of_ranks = Rows(row for row in rows if row["ranks"] == ranks)
        parts += [f"## {ranks} ranks\n", changes(of_ranks)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts))


def write_report(path: Path, rows: Sequence[dict[str, Any]], missing: Sequence[str]) -> None:
    """Writes the report of all rounds."""
    parts = ["# Collectives compared with peers\n", EXPLANATION, markdown.machine_list()]
    if missing:
        parts.append("Not measured, because not installed: " + "; ".join(missing) + ".\n")
    for ranks in sorted({row["ranks"] for row in rows}):
        of_ranks = Rows(row for row in rows if row["ranks"] == ranks)
        behind = []
        if of_ranks.behind_torch():
            behind = ["Through torch.distributed, us: least .. median .. greatest of the starts:\n"]
            behind.append(through_torch(of_ranks))
        parts += [
            f"## {ranks} ranks\n",
            comparison(of_ranks),
            "All times, us:\n",
            everyone(of_ranks),
            *behind,
            "Processor seconds (user and system, all ranks) per 10^9 bytes of buffer:\n",
            processors(of_ranks),
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts))
