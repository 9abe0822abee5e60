"""`fastgpu-comm bench`: measures collectives on one or more backends, side by side."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgpu_comm.bench.sizes import format_size, parse_size, size_range
from fastgpu_comm.cli import ranks
from fastgpu_comm.cli.arguments import (
    add_output,
    count,
    exit_with,
    folder_problems,
    list_of,
    name_of,
    number,
    output_problems,
    seconds,
    size,
    writing,
)
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

DTYPE_ALIASES = {"float": "float32", "double": "float64", "half": "float16"}  # of nccl-tests

DESCRIPTION = """\
Measures collectives by the definitions of nccl-tests: algbw is size / time, busbw is algbw times a
factor that makes it comparable with the speed of the links. With several backends, each size is
measured on all of them in turns, in the same processes. Every result is checked (#wrong).

It starts --nproc ranks on this host, or joins the job if torchrun started it. Sizes are in bytes,
with an optional unit of 1024: 8, 64K, 1.5M, 1G. nccl-tests' flags -b -e -f -i -n -w -d -o -r work.

  fastgpu-comm bench all_reduce -b 8 -e 64M -f 4 --backend fastgpu,gloo --plot all_reduce.png"""


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
        type=name_of("collective", (*COLLECTIVES, "all")),
        help="one or more of: " + ", ".join(COLLECTIVES) + "; or all",
    )
    _add_what(parser)
    _add_how(parser)
    output = add_output(parser, "time and bus bandwidth against size")
    output.add_argument(
        "--report", type=Path, metavar="FOLDER", help="write a page with tables, a chart and JSON"
    )
    parser.set_defaults(run=run)


def _add_what(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to measure")
    for flags, default, meaning in (
        (("-b", "--begin"), "8", "first size of the largest buffer"),
        (("-e", "--end"), "64M", "last size of the largest buffer"),
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
        *("-f", "--factor"),
        type=number(above=1),
        default=4.0,
        metavar="FACTOR",
        help="multiply by this from one size to the next (default: 4)",
    )
    steps.add_argument(
        *("-i", "--step"), type=size, metavar="SIZE", help="add this from one size to the next"
    )
    for names, parse, default, meaning in (
        (("--backend",), list_of("backend"), "fastgpu,gloo", "backends of torch.distributed"),
        (
            ("-d", "--dtype"),
            list_of("dtype", _dtype),
            "float32",
            "dtypes, of: " + ", ".join(DTYPES),
        ),
        (
            ("-o", "--redop"),
            list_of("reduction", name_of("reduction", REDUCTIONS)),
            "sum",
            "reductions, of: " + ", ".join(REDUCTIONS),
        ),
    ):
        what.add_argument(
            *names,
            type=parse,
            default=parse(default),
            metavar="A,B",
            help=f"{meaning} (default: {default})",
        )
    rooted = ", ".join(name for name, collective in COLLECTIVES.items() if collective.rooted)
    what.add_argument(
        *("-r", "--root"),
        type=count(least=0),
        default=0,
        metavar="RANK",
        help=f"root of {rooted} (default: 0)",
    )
    what.add_argument(
        "--device",
        type=name_of("device", ("cpu", "cuda")),
        default="cpu",
        metavar="DEVICE",
        help="where the buffers are, cpu or cuda; ranks of a host take its GPUs in turn "
        "(default: cpu)",
    )


def _add_how(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how to measure")
    for names, parse, default, metavar, meaning in (
        (("--nproc",), count(), 2, "N", "ranks to start on this host"),
        (("--budget",), number(least=0), 0.3, "SECONDS", "time for the calls of a row"),
        (("--min-calls",), count(), 8, "N", "calls of a row at least, whatever the budget"),
        (("-w", "--warmup"), count(least=0), 3, "N", "untimed calls before a row"),
        (("--timeout",), seconds, 60.0, "SECONDS", "time-out of a call"),
    ):
        how.add_argument(
            *names,
            type=parse,
            default=default,
            metavar=metavar,
            help=f"{meaning} (default: {default:g})",
        )
    how.add_argument(
        *("-n", "--iters"),
        type=count(),
        metavar="N",
        help="calls of a row, exactly (default: as many as --budget allows)",
    )
    how.add_argument(
        "--touch",
        action="store_true",
        help="write the inputs and read the outputs between calls, as programs do; otherwise small "
        "buffers stay in the caches where the last call left them and look faster",
    )


def _dtype(text: str) -> str:
    return name_of("dtype", DTYPES)(DTYPE_ALIASES.get(text.strip(), text))


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns 1 if a result was wrong or a call failed."""
    from fastgpu_comm import launch

    exit_with("bench", ranks.problems(arguments.nproc))
    world_size = launch.world_size() or arguments.nproc
    try:
        settings = _settings(arguments)
    except ValueError as error:
        exit_with("bench", [str(error)])
    exit_with("bench", _problems(settings, world_size))
    picture = arguments.plot or (Path("chart.png") if arguments.report else None)
    exit_with("bench", _picture_problems(settings, arguments.plot))
    exit_with("bench", output_problems((arguments.json, arguments.plot), picture))
    exit_with("bench", folder_problems(arguments.report))
    if not launch.is_rank():
        return ranks.start(arguments.argv, arguments.nproc)
    return ranks.run("bench", lambda: _run_rank(arguments, settings))


def _settings(arguments: argparse.Namespace) -> Settings:
    """Returns the settings.

    Raises:
        ValueError: The sizes make no range.
    """
    import datetime

    from fastgpu_comm.bench.measure import Budget
    from fastgpu_comm.bench.worker import Settings

    return Settings(
        collectives=list(COLLECTIVES) if "all" in arguments.collectives else arguments.collectives,
        backends=arguments.backend,
        sizes=size_range(arguments.begin, arguments.end, arguments.factor, arguments.step),
        dtypes=arguments.dtype,
        redops=arguments.redop,
        root=arguments.root,
        budget=Budget(arguments.budget, arguments.min_calls, arguments.warmup, arguments.iters),
        touch=arguments.touch,
        timeout=datetime.timedelta(seconds=arguments.timeout),
        device=arguments.device,
    )


def _problems(settings: Settings, world_size: int) -> list[str]:
    """Returns why the settings cannot be measured; empty if they can."""
    import torch

    from fastgpu_comm.bench import data
    from fastgpu_comm.bench.worker import lines

    reasons: list[str | None] = []
    if any(COLLECTIVES[name].reduces for name in settings.collectives):
        reasons += [
            data.why_not(redop, getattr(torch, dtype))
            for redop in settings.redops
            for dtype in settings.dtypes
        ]
    problems = ranks.backend_problems(settings.backends) + _device_problems(settings)
    problems += [reason for reason in reasons if reason]
    if world_size < 2:
        problems.append("one rank has nobody to communicate with: use 2 ranks or more")
    elif settings.root >= world_size:
        last = world_size - 1
        problems.append(f"there is no rank {settings.root} to be --root: ranks are 0 to {last}")
    if not problems and not lines(settings, world_size):
        problems.append(f"no size has an element for each of {world_size} ranks: raise --end")
    return problems + _memory_problems(settings, world_size)


def _device_problems(settings: Settings) -> list[str]:
    import torch

    from fastgpu_comm._built_for import serves_cuda

    if settings.device == "cpu":
        return []
    if not torch.cuda.is_available():
        return ["--device cuda needs a GPU that torch can use, and there is none on this host"]
    if "fastgpu" in settings.backends and not serves_cuda():
        return [
            "fastgpu does not serve CUDA here: its build has no code for GPUs, or the driver's "
            "device files are missing; `fastgpu-comm env` shows which"
        ]
    return []


def _memory_problems(settings: Settings, world_size: int) -> list[str]:
    from fastgpu_comm.bench import machine

    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size)))
    largest = max(settings.sizes)
    needed = largest * local * len(settings.backends)  # at least: some calls take two buffers
    in_memory = settings.device == "cpu" and settings.collectives != ["barrier"]
    if needed <= machine.memory_bytes() or not in_memory:
        return []
    return [
        f"{format_size(largest)} on {local} ranks and {len(settings.backends)} backends is "
        f"{needed / 2**30:.0f} GiB, more than the {machine.memory_bytes() / 2**30:.0f} GiB of this "
        "host: lower --end"
    ]


def _picture_problems(settings: Settings, picture: Path | None) -> list[str]:
    if picture is None or any(COLLECTIVES[name].has_data for name in settings.collectives):
        return []
    return ["a barrier has no sizes to draw: leave out --plot, or name another collective"]


def _run_rank(arguments: argparse.Namespace, settings: Settings) -> int:
    from fastgpu_comm.bench import machine
    from fastgpu_comm.bench.display import Display
    from fastgpu_comm.bench.job import Job
    from fastgpu_comm.bench.results import Results
    from fastgpu_comm.bench.worker import Worker, lines

    job = Job(settings.backends, settings.timeout, settings.device)
    results = Results(
        command=shlex.join(["fastgpu-comm", *arguments.argv]),
        world_size=job.world_size,
        backends=settings.backends,
        machine=machine.describe(),
        options={
            "touch": settings.touch,
            "budget_seconds": settings.budget.seconds,
            "device": settings.device,
        },
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
        with writing(arguments.json):
            arguments.json.write_text(results.to_json())
    if arguments.plot:
        with writing(arguments.plot):
            if not plot.draw(results, arguments.plot):
                print("# no picture: no call with data succeeded")
    if arguments.report:
        with writing(arguments.report):
            print(f"# report: {report.write(results, arguments.report)}")
