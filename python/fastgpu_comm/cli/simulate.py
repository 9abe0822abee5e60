"""`fastgpu-comm simulate`: simulates collectives of thousands of ranks on a model of a machine."""

from __future__ import annotations

import argparse
import os
import re
import sys
import textwrap
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from fastgpu_comm import names, simulation
from fastgpu_comm.bench.sizes import parse_size
from fastgpu_comm.cli.arguments import (
    INTERRUPTED,
    add_output,
    count,
    exit_with,
    list_of,
    name_of,
    number,
    output_problems,
    size,
    writing,
)
from fastgpu_comm.collectives import COLLECTIVES
from fastgpu_comm.simulation import MAX_STEPS

if TYPE_CHECKING:
    from fastgpu_comm.native import Constants
    from fastgpu_comm.simulation import Point, Scenario

SIMULATED = [name for name, collective in COLLECTIVES.items() if collective.has_schedule]
MAX_RANKS = 65534  # kMaxWorld in csrc/base/call.h
MAX_CHUNKS = 65536
MAX_COST = 1e9
WIDTH = 100

DESCRIPTION = """\
Simulates the schedules that would run, step by step, on a model of the machine (docs/cost.md), and
prints time against ranks for each algorithm and for `auto`, which is what the library does by
itself. It sends nothing; thousands of ranks take seconds.

  fastgpu-comm simulate all_reduce --ranks 2-4096 --bytes 64M --algorithm ring,tree,hierarchical

Times are in microseconds (US), times per byte in US/BYTE: 0.001 is 1 GB/s, 0.0001 is 10 GB/s.
Sizes are in bytes, with an optional unit of 1024: 8, 64K, 1.5M, 1G."""


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
        type=name_of("collective", SIMULATED),
        metavar="COLLECTIVE",
        help="one of: " + ", ".join(SIMULATED),
    )
    _add_what(parser)
    _add_machine(parser)
    add_output(parser, "time against ranks")
    parser.set_defaults(run=run)


def _add_what(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to simulate")
    for flag, parse, metavar, meaning in (
        ("--ranks", parse_ranks, "A-B|A,B", "doubling from A to B, or a list (default: 2-1024)"),
        ("--ranks-per-host", count(), "N", "ranks that share a host and its memory (default: 8)"),
        ("--bytes", size, "SIZE", "size of the largest buffer, as in `bench` (default: 64M)"),
        ("--algorithm", list_of("algorithm"), "A,B", "algorithms (default: all of the collective)"),
        ("--lanes", count(), "N", "shares that run side by side (default: 1; auto's own choice)"),
        ("--chunk", size, "SIZE", "size of a pipelined step (default: the model's choice)"),
        ("--max-steps", count(), "N", f"steps to simulate at most (default: {MAX_STEPS})"),
    ):
        what.add_argument(flag, type=parse, metavar=metavar, help=meaning)
    parser.set_defaults(
        ranks=parse_ranks("2-1024"),
        ranks_per_host=8,
        bytes=parse_size("64M"),
        max_steps=MAX_STEPS,
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    machine = parser.add_argument_group("the machine")
    for flag, metavar, default, meaning in (
        ("--alpha", "US", "20", "latency of a frame between hosts"),
        ("--beta", "US/BYTE", "0.00035", "time per byte of one stream between hosts"),
        ("--nic-beta", "US/BYTE", "0.0003", "time per byte of a host's network interface"),
        ("--inside-alpha", "US", "0.3", "latency of a frame inside a host"),
        ("--inside-beta", "US/BYTE", "0.00005", "time per byte inside a host"),
        ("--reduce", "US/BYTE", "0.00001", "time per byte of reducing, beyond that of storing"),
    ):
        machine.add_argument(
            flag,
            type=number(least=0, most=MAX_COST),
            metavar=metavar,
            help=f"{meaning} (default: {default})",
        )
    machine.add_argument(
        "--gpus",
        type=name_of("link between GPUs", list(simulation.GPU_LINKS)),
        metavar="LINK",
        help="ranks of a host are GPUs that read each other's memory over LINK: "
        + ", ".join(simulation.GPU_LINKS)
        + " (rates of data sheets, not measured); the flags above override it",
    )
    machine.add_argument(
        "--cores", type=count(), metavar="N", help="cores of a host (default: one for each rank)"
    )
    machine.add_argument(
        "--constants",
        metavar="TEXT",
        help="all costs at once, as bench/model_check.py prints them; the flags above override it",
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
        help="frames from rank A to rank B take FACTOR times as long; may be repeated",
    )


def parse_ranks(text: str) -> list[int]:
    """Reads numbers of ranks: 2-16 is 2, 4, 8, 16; 2-12 is 2, 4, 8, 12; 3,5 is 3, 5.

    Raises:
        argparse.ArgumentTypeError: `text` has another form or a number out of range.
    """
    match = re.fullmatch(r"(\d{1,9})-(\d{1,9})", text, re.ASCII)
    if match:
        first, last = int(match[1]), int(match[2])
        ranks = [first]
        while first > 0 and ranks[-1] < last:
            ranks.append(min(2 * ranks[-1], last))
        if first > last:
            ranks = []
    else:
        parts = text.split(",")
        numbers = [part for part in parts if re.fullmatch(r"\d{1,9}", part, re.ASCII)]
        ranks = sorted({int(part) for part in numbers})
        if len(ranks) != len(parts):
            ranks = []
    if not ranks or not 1 <= ranks[0] <= ranks[-1] <= MAX_RANKS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a range or list of ranks: write 2-64 or 2,3,8, with numbers from 1 "
            f"to {MAX_RANKS}"
        )
    return ranks


def _slow_rank(text: str) -> tuple[int, float]:
    match = re.fullmatch(r"(\d{1,9})=(.*)", text, re.ASCII)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a slow rank: write 3=2.5")
    return int(match[1]), number(above=0, most=MAX_COST)(match[2])


def _slow_link(text: str) -> tuple[int, int, float]:
    match = re.fullmatch(r"(\d{1,9})-(\d{1,9})=(.*)", text, re.ASCII)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a slow link: write 0-1=10")
    return int(match[1]), int(match[2]), number(above=0, most=MAX_COST)(match[3])


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    from rich.console import Console

    from fastgpu_comm.errors import InvalidArgumentError

    exit_with("simulate", _problems(arguments))
    exit_with("simulate", output_problems((arguments.json, arguments.plot), arguments.plot))
    try:
        scenario = _scenario(arguments)
        points = _simulate(scenario)
    except InvalidArgumentError as error:
        exit_with("simulate", [str(error)])
    width = None if sys.stdout.isatty() else WIDTH
    Console(width=width).print(simulation.table(scenario, points))
    for note in simulation.notes(scenario, points):
        print(textwrap.fill(note, WIDTH, subsequent_indent="  "))
    if arguments.json:
        with writing(arguments.json):
            simulation.write_json(scenario, points, arguments.json)
    if arguments.plot:
        with writing(arguments.plot):
            simulation.draw(scenario, points, arguments.plot)
    return 0


def _problems(arguments: argparse.Namespace) -> list[str]:
    """Returns why the arguments cannot be simulated; empty if they can."""
    from fastgpu_comm.native import algorithms_of

    known = algorithms_of(arguments.collective)
    problems = [
        names.unknown(f"algorithm of {arguments.collective}", name, known)
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
    collective = COLLECTIVES[arguments.collective]
    if collective.has_data and not collective.count(
        arguments.bytes, simulation.ELEMENT_SIZE, largest
    ):
        problems.append(
            f"{arguments.bytes} bytes have no float32 for each of {largest} ranks: raise --bytes"
        )
    if arguments.chunk and arguments.bytes > MAX_CHUNKS * arguments.chunk:
        problems.append(f"--chunk cuts the buffer into over {MAX_CHUNKS} pieces: raise it")
    return problems


def _algorithms(arguments: argparse.Namespace) -> list[str]:
    """Returns the algorithms to simulate; unknown names as they are."""
    from fastgpu_comm.native import algorithms_of

    known = algorithms_of(arguments.collective)
    return [names.find(name, known) or name for name in arguments.algorithm or known]


def _scenario(arguments: argparse.Namespace) -> Scenario:
    return simulation.Scenario(
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
        max_steps=arguments.max_steps,
    )


def _constants(arguments: argparse.Namespace) -> Constants:
    """Returns the cost constants.

    Raises:
        InvalidArgumentError: The text of --constants cannot be read.
    """
    from fastgpu_comm.native import Constants

    constants = Constants.from_text(arguments.constants) if arguments.constants else Constants()
    if arguments.gpus:
        simulation.use_gpus(constants, arguments.gpus)
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
    """Simulates in threads: on all cores, and because Ctrl-C does not interrupt C++ code."""
    from rich.console import Console
    from rich.progress import Progress

    cases = [(world, name) for world in scenario.worlds for name in scenario.columns]
    threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    progress = Progress(
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    )
    try:
        with progress:
            task = progress.add_task("simulating", total=len(cases))
            futures = [threads.submit(simulation.point, scenario, *case) for case in cases]
            while wait(futures, timeout=0.1, return_when=FIRST_EXCEPTION).not_done:
                progress.update(task, completed=sum(future.done() for future in futures))
                if any(future.done() and future.exception() for future in futures):
                    break
        return [future.result() for future in futures]
    except KeyboardInterrupt:
        print("fastgpu-comm simulate: interrupted", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)  # threads in C++ code must not outlive the interpreter
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
