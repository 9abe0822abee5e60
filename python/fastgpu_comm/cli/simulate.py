"""`fastgpu-comm simulate`: simulates collectives of thousands of ranks on a model of a machine."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgpu_comm.bench.sizes import parse_size
from fastgpu_comm.cli.arguments import exit_with, output_problems, positive_int
from fastgpu_comm.collectives import COLLECTIVES

if TYPE_CHECKING:
    from fastgpu_comm.native import Constants
    from fastgpu_comm.simulation import Point, Scenario

SIMULATED = [name for name, collective in COLLECTIVES.items() if collective.has_schedule]
MAX_RANKS = 65534  # kMaxWorld in csrc/base/call.h

DESCRIPTION = """\
Simulates the schedules that would run, step by step, on a model of the machine (docs/cost.md), and
prints time against ranks for each algorithm. It sends nothing; thousands of ranks take seconds.

  fastgpu-comm simulate all_reduce --ranks 2-4096 --bytes 64M --algorithm ring,tree,hierarchical

Times are in us, times per byte in us/byte: 1e-3 is 1 GB/s, 1e-4 is 10 GB/s."""


def add_parser(subparsers: Any) -> None:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "simulate",
        help="time against ranks, by algorithm, on a model of a machine",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "collective",
        choices=SIMULATED,
        metavar="COLLECTIVE",
        help="one of: " + ", ".join(SIMULATED),
    )
    what = parser.add_argument_group("what to simulate")
    what.add_argument(
        "--ranks",
        type=parse_ranks,
        default=parse_ranks("2-1024"),
        metavar="A-B|A,B",
        help="doubling from A to B, or a list (default: 2-1024)",
    )
    what.add_argument(
        "--ranks-per-host", type=positive_int, default=8, metavar="N", help="(default: 8)"
    )
    what.add_argument(
        "--bytes",
        type=parse_size,
        default=parse_size("64M"),
        metavar="SIZE",
        help="size of the largest buffer, as in `bench` (default: 64M)",
    )
    what.add_argument("--algorithm", metavar="A,B", help="(default: all of the collective's)")
    what.add_argument("--lanes", type=positive_int, default=1, metavar="N", help="(default: 1)")
    what.add_argument("--chunk", type=parse_size, metavar="SIZE", help="(default: the model's)")
    _add_machine(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="FILE", help="write every number as JSON")
    output.add_argument("--plot", type=Path, metavar="FILE.png", help="draw time against ranks")
    parser.set_defaults(run=run)


def _add_machine(parser: argparse.ArgumentParser) -> None:
    machine = parser.add_argument_group("the machine")
    for flag, unit, meaning in (
        ("--alpha", "US", "latency between hosts"),
        ("--beta", "US/BYTE", "of one stream between hosts"),
        ("--nic-beta", "US/BYTE", "of a host's network interface"),
        ("--inside-alpha", "US", "latency inside a host"),
        ("--inside-beta", "US/BYTE", "inside a host"),
        ("--reduce", "US/BYTE", "of reducing, beyond the cost of storing"),
    ):
        machine.add_argument(flag, type=_cost, metavar=unit, help=meaning)
    machine.add_argument(
        "--cores", type=positive_int, metavar="N", help="of a host (default: enough for its ranks)"
    )
    machine.add_argument(
        "--constants", metavar="TEXT", help="all costs at once, as bench/model_check.py prints them"
    )
    machine.add_argument(
        "--slow-rank",
        type=_slow_rank,
        action="append",
        default=[],
        metavar="R=FACTOR",
        help="rank R takes FACTOR times as much processor time; may be repeated",
    )
    machine.add_argument(
        "--slow-link",
        type=_slow_link,
        action="append",
        default=[],
        metavar="A-B=FACTOR",
        help="the link from rank A to rank B is FACTOR times slower; may be repeated",
    )


def parse_ranks(text: str) -> list[int]:
    """Reads numbers of ranks: 2-16 is 2, 4, 8, 16; 2-12 is 2, 4, 8, 12; 3,5 is 3, 5.

    Raises:
        argparse.ArgumentTypeError: `text` has another form or a number out of range.
    """
    match = re.fullmatch(r"(\d+)-(\d+)", text)
    if match:
        first, last = int(match[1]), int(match[2])
        ranks = [first]
        while first > 0 and ranks[-1] < last:
            ranks.append(min(2 * ranks[-1], last))
        if first > last:
            ranks = []
    else:
        parts = text.split(",")
        ranks = sorted({int(part) for part in parts if part.isdecimal()})
        if len(ranks) != len(parts):
            ranks = []
    if not ranks or not 1 <= ranks[0] <= ranks[-1] <= MAX_RANKS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a range or list of ranks: write 2-64 or 2,3,8, with numbers from 1 "
            f"to {MAX_RANKS}"
        )
    return ranks


def _cost(text: str) -> float:
    try:
        cost = float(text)
    except ValueError:
        cost = -1.0
    if not 0 <= cost < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a cost: write a number of at least 0")
    return cost


def _slow_rank(text: str) -> tuple[int, float]:
    match = re.fullmatch(r"(\d+)=(\d+(?:\.\d+)?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a slow rank: write 3=2.5")
    return int(match[1]), float(match[2])


def _slow_link(text: str) -> tuple[int, int, float]:
    match = re.fullmatch(r"(\d+)-(\d+)=(\d+(?:\.\d+)?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a slow link: write 0-1=10")
    return int(match[1]), int(match[2]), float(match[3])


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    from rich.console import Console

    from fastgpu_comm import simulation
    from fastgpu_comm.errors import InvalidArgumentError

    exit_with("simulate", _problems(arguments))
    exit_with("simulate", output_problems((arguments.json, arguments.plot), arguments.plot))
    try:
        scenario = _scenario(arguments)
        points = _simulate(scenario)
    except InvalidArgumentError as error:
        raise SystemExit(f"fastgpu-comm simulate: {error}") from None
    Console().print(simulation.table(scenario, points))
    if arguments.json:
        simulation.write_json(scenario, points, arguments.json)
    if arguments.plot:
        simulation.draw(scenario, points, arguments.plot)
    return 0


def _problems(arguments: argparse.Namespace) -> list[str]:
    """Returns why the arguments cannot be simulated; empty if they can."""
    from fastgpu_comm.native import algorithms_of

    known = algorithms_of(arguments.collective)
    problems = [
        f"{arguments.collective} has no algorithm {name!r}; it has {', '.join(known)}"
        for name in _algorithms(arguments)
        if name not in known
    ]
    slow = {rank for rank, _ in arguments.slow_rank}
    slow.update(end for *ends, _ in arguments.slow_link for end in ends)
    largest = max(arguments.ranks)
    problems += [
        f"rank {rank} does not exist: the largest world has {largest} ranks"
        for rank in sorted(slow)
        if rank >= largest
    ]
    return problems


def _algorithms(arguments: argparse.Namespace) -> list[str]:
    from fastgpu_comm.native import algorithms_of

    if not arguments.algorithm:
        return algorithms_of(arguments.collective)
    return list(dict.fromkeys(arguments.algorithm.split(",")))


def _scenario(arguments: argparse.Namespace) -> Scenario:
    from fastgpu_comm.simulation import Scenario

    return Scenario(
        collective=arguments.collective,
        size_bytes=arguments.bytes,
        worlds=arguments.ranks,
        ranks_per_host=arguments.ranks_per_host,
        algorithms=_algorithms(arguments),
        lanes=arguments.lanes,
        chunk_bytes=arguments.chunk,
        constants=_constants(arguments),
        slow_ranks=dict(arguments.slow_rank),
        slow_links=arguments.slow_link,
    )


def _constants(arguments: argparse.Namespace) -> Constants:
    """Returns the cost constants.

    Raises:
        InvalidArgumentError: The text of --constants cannot be read.
    """
    from fastgpu_comm.native import Constants

    constants = Constants.from_text(arguments.constants) if arguments.constants else Constants()
    for given, holder, field in (
        (arguments.alpha, constants.between_hosts, "alpha_us"),
        (arguments.beta, constants.between_hosts, "beta_us_per_byte"),
        (arguments.inside_alpha, constants.same_host, "alpha_us"),
        (arguments.inside_beta, constants.same_host, "beta_us_per_byte"),
        (arguments.nic_beta, constants, "nic_us_per_byte"),
        (arguments.reduce, constants, "reduce_us_per_byte"),
        (arguments.cores, constants, "cores_per_host"),
    ):
        if given is not None:
            setattr(holder, field, given)
    return constants


def _simulate(scenario: Scenario) -> list[Point]:
    from rich.console import Console
    from rich.progress import track

    from fastgpu_comm import simulation

    return list(
        track(
            simulation.points(scenario),
            description="simulating",
            total=len(scenario.worlds) * len(scenario.algorithms),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
    )
