"""`fastgpu-comm bench`: measures collectives on one or more backends, side by side."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgpu_comm.bench.sizes import parse_size, size_range
from fastgpu_comm.cli.arguments import exit_with, output_problems
from fastgpu_comm.collectives import COLLECTIVES, REDUCTIONS

if TYPE_CHECKING:
    from fastgpu_comm.bench.results import Results
    from fastgpu_comm.bench.worker import Settings

DTYPES = (
    "float32",
    "float64",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "int8",
    "uint8",
    "int16",
    "int32",
    "int64",
    "bool",
    "complex64",
    "complex128",
)

DESCRIPTION = """\
Measures collectives by the definitions of nccl-tests: algbw is size / time, busbw is algbw times a
factor that makes it comparable with the speed of the links. With several backends, each size is
measured on all of them in turns, in the same processes. Every result is checked (#wrong).

It starts --nproc ranks on this host, or joins the job if torchrun started it."""


def add_parser(subparsers: Any) -> None:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bench",
        help="measure collectives, on several backends side by side",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "collectives",
        nargs="+",
        metavar="COLLECTIVE",
        choices=(*COLLECTIVES, "all"),
        help="one or more of: " + ", ".join(COLLECTIVES) + "; or all",
    )
    _add_what(parser)
    _add_how(parser)
    _add_output(parser)
    parser.set_defaults(run=run)


def _add_what(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to measure")
    for flags, default, meaning in (
        (("-b", "--begin"), "8", "first size in bytes, such as 64, 4K, 1.5M"),
        (("-e", "--end"), "64M", "last size"),
    ):
        what.add_argument(
            *flags,
            type=parse_size,
            default=parse_size(default),
            metavar="SIZE",
            help=f"{meaning} (default: {default})",
        )
    steps = what.add_mutually_exclusive_group()
    steps.add_argument(
        "-f", "--factor", type=float, default=4.0, help="from one size to the next (default: 4)"
    )
    steps.add_argument(
        "-i", "--step", type=parse_size, metavar="SIZE", help="added to each size, not multiplied"
    )
    for flag, kind, default, meaning in (
        ("--backend", _names, "fastgpu,gloo", "backends of torch.distributed"),
        ("--dtype", _names_among(DTYPES), "float32", "of: " + ", ".join(DTYPES)),
        ("--redop", _names_among(REDUCTIONS), "sum", "of: " + ", ".join(REDUCTIONS)),
    ):
        what.add_argument(
            flag,
            type=kind,
            default=kind(default),
            metavar="A,B",
            help=f"{meaning} (default: {default})",
        )
    rooted = ", ".join(name for name, collective in COLLECTIVES.items() if collective.rooted)
    what.add_argument("--root", type=int, default=0, help=f"of {rooted} (default: 0)")


def _add_how(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how to measure")
    how.add_argument("--nproc", type=int, default=2, help="ranks to start (default: 2)")
    how.add_argument("--budget", type=float, default=0.3, help="seconds per row (default: 0.3)")
    how.add_argument(
        "--min-calls", type=int, default=8, help="per row, even beyond the budget (default: 8)"
    )
    how.add_argument("--warmup", type=int, default=3, help="calls before a row (default: 3)")
    how.add_argument("--timeout", type=float, default=60.0, help="seconds per call (default: 60)")
    how.add_argument(
        "--touch",
        action="store_true",
        help="write the inputs and read the outputs between calls, as programs do; otherwise small "
        "buffers stay in the caches where the last call left them and look faster",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="FILE", help="write every number as JSON")
    output.add_argument("--plot", type=Path, metavar="FILE.png", help="draw time and busbw")
    output.add_argument(
        "--report", type=Path, metavar="FOLDER", help="write a page with tables, a chart and JSON"
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns 1 if a result was wrong or a call failed."""
    from fastgpu_comm import launch

    world_size = int(os.environ["WORLD_SIZE"]) if launch.is_rank() else arguments.nproc
    settings = _settings(arguments)
    exit_with("bench", _problems(settings, world_size))
    picture = arguments.plot or (Path("chart.png") if arguments.report else None)
    exit_with("bench", output_problems((arguments.json, arguments.plot), picture))
    if not launch.is_rank():
        command = [sys.executable, "-m", "fastgpu_comm", *arguments.argv]
        return launch.launch(command, arguments.nproc)
    return _run_rank(arguments, settings)


def _settings(arguments: argparse.Namespace) -> Settings:
    import datetime

    from fastgpu_comm.bench.measure import Budget
    from fastgpu_comm.bench.worker import Settings

    try:
        sizes = size_range(arguments.begin, arguments.end, arguments.factor, arguments.step)
    except ValueError as error:
        raise SystemExit(f"fastgpu-comm bench: {error}") from None
    return Settings(
        collectives=list(COLLECTIVES) if "all" in arguments.collectives else arguments.collectives,
        backends=arguments.backend,
        sizes=sizes,
        dtypes=arguments.dtype,
        redops=arguments.redop,
        root=arguments.root,
        budget=Budget(arguments.budget, arguments.min_calls, arguments.warmup),
        touch=arguments.touch,
        timeout=datetime.timedelta(seconds=arguments.timeout),
    )


def _problems(settings: Settings, world_size: int) -> list[str]:
    """Returns why the settings cannot be measured; empty if they can."""
    import torch

    from fastgpu_comm.backend import why_not_available
    from fastgpu_comm.bench import data
    from fastgpu_comm.bench.worker import lines

    reasons = [why_not_available(backend) for backend in settings.backends]
    if any(COLLECTIVES[name].reduces for name in settings.collectives):
        reasons += [
            data.why_not(redop, getattr(torch, dtype))
            for redop in settings.redops
            for dtype in settings.dtypes
        ]
    problems = [reason for reason in reasons if reason]
    if world_size < 2:
        problems.append(f"{world_size} ranks cannot communicate: use 2 ranks or more")
    elif not 0 <= settings.root < world_size:
        problems.append(f"root {settings.root} is not one of the {world_size} ranks")
    if not problems and not lines(settings, world_size):
        problems.append(f"no size has an element for each of {world_size} ranks: raise --end")
    return problems


def _run_rank(arguments: argparse.Namespace, settings: Settings) -> int:
    from fastgpu_comm.bench import machine
    from fastgpu_comm.bench.display import Display
    from fastgpu_comm.bench.job import Job
    from fastgpu_comm.bench.results import Results
    from fastgpu_comm.bench.worker import Worker, lines

    job = Job(settings.backends, settings.timeout)
    results = Results(
        command=shlex.join(["fastgpu-comm", *arguments.argv]),
        world_size=job.world_size,
        backends=settings.backends,
        machine=machine.describe(),
        options={"touch": settings.touch, "budget_seconds": settings.budget.seconds},
    )
    line_count = len(lines(settings, job.world_size))
    with Display(results, line_count, visible=job.rank == 0) as display:
        for line, rows in Worker(settings, job).run():
            results.rows += rows
            display.add(line, rows)
    job.leave()
    if job.rank == 0:
        _write(arguments, results)
    return 1 if results.wrong or results.errors else 0


def _write(arguments: argparse.Namespace, results: Results) -> None:
    from fastgpu_comm.bench import plot, report

    if arguments.json:
        arguments.json.write_text(results.to_json())
    if arguments.plot:
        plot.draw(results, arguments.plot)
    if arguments.report:
        print(f"# report: {report.write(results, arguments.report)}")


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of different names: a,b")
    return names


def _names_among(allowed: Collection[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = _names(text)
        for name in names:
            if name not in allowed:
                raise argparse.ArgumentTypeError(
                    f"{name!r} is unknown; the choice is {', '.join(allowed)}"
                )
        return names

    return parse
