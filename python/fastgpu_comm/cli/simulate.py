"""`fastgpu-comm simulate`: plays collectives over thousands of ranks on a model of the machine."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fastgpu_comm.bench.sizes import parse_size

if TYPE_CHECKING:
    from fastgpu_comm.native import Constants
    from fastgpu_comm.simulation import Point, Scenario

COLLECTIVES = (
    "all_reduce",
    "reduce_scatter",
    "all_gather",
    "broadcast",
    "reduce",
    "gather",
    "scatter",
    "all_to_all",
    "barrier",
)
MAX_RANKS = 65535

DESCRIPTION = """\
Plays the schedules that would run, step by step, against a model of the machine (docs/cost.md),
and prints time against ranks for each algorithm. Nothing is sent; thousands of ranks take seconds.

  fastgpu-comm simulate all_reduce --ranks 2-4096 --bytes 64M --algorithm ring,tree,hierarchical

Times are in us, times a byte in us/byte: 1e-3 is 1 GB/s, 1e-4 is 10 GB/s."""


def add_parser(subparsers: Any) -> None:
    """Adds the command's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "simulate",
        help="time against ranks, by algorithm, on a model of the machine",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "collective",
        choices=COLLECTIVES,
        metavar="COLLECTIVE",
        help="one of: " + ", ".join(COLLECTIVES),
    )
    what = parser.add_argument_group("what to simulate")
    what.add_argument(
        "--ranks",
        type=parse_ranks,
        default=parse_ranks("2-1024"),
        metavar="A-B|A,B",
        help="doubling from A to B, or a list (default: 2-1024)",
    )
    what.add_argument("--ranks-per-host", type=_positive, default=8, metavar="N")
    what.add_argument(
        "--bytes",
        type=parse_size,
        default=parse_size("64M"),
        metavar="SIZE",
        help="of the tensor, or of all ranks' parts together (default: 64M)",
    )
    what.add_argument("--algorithm", metavar="A,B", help="(default: all of the collective's)")
    what.add_argument("--lanes", type=_positive, default=1, metavar="N")
    what.add_argument("--chunk", type=parse_size, metavar="SIZE", help="(default: the model's)")
    _add_machine(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="FILE", help="write every number as JSON")
    output.add_argument("--plot", type=Path, metavar="FILE.png", help="draw time against ranks")
    parser.set_defaults(run=run)


def _add_machine(parser: argparse.ArgumentParser) -> None:
    machine = parser.add_argument_group("the machine")
    machine.add_argument("--alpha", type=_cost, metavar="US", help="latency between hosts")
    machine.add_argument("--beta", type=_cost, metavar="US/BYTE", help="of a stream between hosts")
    machine.add_argument("--nic-beta", type=_cost, metavar="US/BYTE", help="of a host's interface")
    machine.add_argument("--inside-alpha", type=_cost, metavar="US", help="latency inside a host")
    machine.add_argument("--inside-beta", type=_cost, metavar="US/BYTE", help="inside a host")
    machine.add_argument("--reduce", type=_cost, metavar="US/BYTE", help="summing over storing")
    machine.add_argument("--cores", type=_positive, metavar="N", help="of a host (default: enough)")
    machine.add_argument(
        "--constants", metavar="TEXT", help="all costs at once, as bench/model_check.py prints them"
    )
    machine.add_argument(
        "--slow-rank", type=_slow_rank, action="append", default=[], metavar="R=FACTOR"
    )
    machine.add_argument(
        "--slow-link", type=_slow_link, action="append", default=[], metavar="A-B=FACTOR"
    )


def parse_ranks(text: str) -> list[int]:
    """Returns the numbers of ranks: 2-16 is 2, 4, 8, 16; 2-12 is 2, 4, 8, 12; 3,5 is 3, 5."""
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
            f"{text!r} names no worlds: write 2-64 or 2,3,8, of 1 to {MAX_RANKS} ranks"
        )
    return ranks


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _cost(text: str) -> float:
    try:
        cost = float(text)
    except ValueError:
        cost = -1.0
    if not 0 <= cost < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no cost: write a number, 0 or more")
    return cost


def _slow_rank(text: str) -> tuple[int, float]:
    match = re.fullmatch(r"(\d+)=(\d+(?:\.\d+)?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no slow rank: write 3=2.5")
    return int(match[1]), float(match[2])


def _slow_link(text: str) -> tuple[int, int, float]:
    match = re.fullmatch(r"(\d+)-(\d+)=(\d+(?:\.\d+)?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no slow link: write 0-1=10")
    return int(match[1]), int(match[2]), float(match[3])


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    from rich.console import Console

    from fastgpu_comm import simulation
    from fastgpu_comm.errors import InvalidArgumentError

    scenario = _scenario(arguments)
    _check(arguments, scenario)
    try:
        found = _points(scenario)
    except InvalidArgumentError as error:
        _refuse(str(error))
    Console().print(simulation.table(scenario, found))
    if arguments.json:
        simulation.write_json(scenario, found, arguments.json)
    if arguments.plot:
        simulation.draw(scenario, found, arguments.plot)
    return 0


def _scenario(arguments: argparse.Namespace) -> Scenario:
    from fastgpu_comm.native import algorithms_of
    from fastgpu_comm.simulation import Scenario

    known = algorithms_of(arguments.collective)
    names = arguments.algorithm.split(",") if arguments.algorithm else known
    for name in names:
        if name not in known:
            _refuse(f"{arguments.collective} has no {name!r}; it has {', '.join(known)}")
    return Scenario(
        collective=arguments.collective,
        size_bytes=arguments.bytes,
        worlds=arguments.ranks,
        ranks_per_host=arguments.ranks_per_host,
        algorithms=list(dict.fromkeys(names)),
        lanes=arguments.lanes,
        chunk_bytes=arguments.chunk,
        constants=_constants(arguments),
        slow_ranks=dict(arguments.slow_rank),
        slow_links=arguments.slow_link,
    )


def _constants(arguments: argparse.Namespace) -> Constants:
    from fastgpu_comm.errors import InvalidArgumentError
    from fastgpu_comm.native import Constants

    try:
        constants = Constants.from_text(arguments.constants) if arguments.constants else Constants()
    except InvalidArgumentError as error:
        _refuse(str(error))
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


def _check(arguments: argparse.Namespace, scenario: Scenario) -> None:
    """Refuses, before anything is simulated, what could not be shown or written after it."""
    ranks = [*scenario.slow_ranks, *(end for link in scenario.slow_links for end in link[:2])]
    for rank in ranks:
        if rank >= max(scenario.worlds):
            _refuse(f"rank {rank} is in none of the worlds of up to {max(scenario.worlds)} ranks")
    for path in (arguments.json, arguments.plot):
        if path is not None and not path.absolute().parent.is_dir():
            _refuse(f"no folder {path.absolute().parent} to write {path.name} to")
    if arguments.plot is not None:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            _refuse("--plot needs matplotlib: pip install 'fastgpu-comm[plot]'")
        from fastgpu_comm.bench.plot import why_not_drawn

        if reason := why_not_drawn(arguments.plot):
            _refuse(reason)


def _points(scenario: Scenario) -> list[Point]:
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


def _refuse(message: str) -> NoReturn:
    raise SystemExit(f"fastgpu-comm simulate: {message}")
