"""`fastgpu-comm train`: trains a small language model with several worker processes."""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgpu_comm.cli.arguments import positive_int

if TYPE_CHECKING:
    from fastgpu_comm.trainer.demo import DemoOptions

DESCRIPTION = (
    "Trains a small byte-level GPT, data parallel, on a text that every machine has: the source "
    "files of Python's standard library. It starts its own worker processes; under torchrun it "
    "joins that job instead."
)


def add_parser(subparsers: Any) -> None:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "train",
        help="train a small GPT on the source files of Python's standard library",
        description=DESCRIPTION,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--backend",
        default="fastgpu",
        metavar="NAME",
        help="backend of torch.distributed (default: fastgpu)",
    )
    for flag, default, meaning in (
        ("--nproc", 2, "worker processes to start"),
        ("--steps", 1000, "optimizer steps"),
        ("--batch", 16, "samples per step, over all ranks"),
        ("--accumulation", 1, "micro-batches per step"),
        ("--checkpoint-every", 250, "steps from one checkpoint to the next"),
    ):
        parser.add_argument(
            flag,
            type=positive_int,
            default=default,
            metavar="N",
            help=f"{meaning} (default: {default})",
        )
    parser.add_argument(
        "--learning-rate", type=_rate, default=4e-3, metavar="RATE", help="(default: 0.004)"
    )
    parser.add_argument(
        "--precision", default="fp32", metavar="NAME", help="fp32, bf16 or fp16 (default: fp32)"
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="of every rank (default: cpu)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder for metrics, curve and checkpoints (default: a new runs/train-BACKEND-N)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue from the newest good checkpoint in --out"
    )


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return rate


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns 2 for bad arguments, and a failed worker's exit status."""
    from fastgpu_comm import launch

    try:
        options = _options(arguments)
    except ValueError as error:
        print(f"fastgpu-comm train: {error}", file=sys.stderr)
        return 2
    if launch.is_rank():
        return _run_rank(options)
    print(f"starting   {arguments.nproc} worker processes", flush=True)
    command = [sys.executable, "-m", "fastgpu_comm", *arguments.argv]
    return launch.launch(command, arguments.nproc)


def _run_rank(options: DemoOptions) -> int:
    from fastgpu_comm.trainer import CheckpointError, demo

    try:
        demo.run(options)
    except CheckpointError as error:  # the message says what to do, so no traceback is needed
        print(f"fastgpu-comm train: {error}", file=sys.stderr)
        return 1
    return 0


def _options(arguments: argparse.Namespace) -> DemoOptions:
    from fastgpu_comm.backend import why_not_available
    from fastgpu_comm.trainer import demo, gpt, settings

    if reason := why_not_available(arguments.backend):
        raise ValueError(reason)
    if arguments.resume and arguments.out is None:
        raise ValueError("--resume needs --out, the folder of the run to continue.")
    return demo.DemoOptions(
        arguments.backend,
        arguments.device,
        arguments.learning_rate,
        gpt.GptShape(context=128, layers=2, width=128, heads=4),
        settings.TrainerSettings(
            steps=arguments.steps,
            batch_size=arguments.batch,
            accumulation=arguments.accumulation,
            seed=arguments.seed,
            precision=arguments.precision,
            clip_norm=1.0,
            evaluate_every=max(1, arguments.steps // 5),
            folder=arguments.out or _new_folder(arguments.backend),
            checkpoint_every=arguments.checkpoint_every,
            resume=arguments.resume,
        ),
    )


def _new_folder(backend: str) -> Path:
    """Returns the first of runs/train-BACKEND-1, -2, ... that does not exist."""
    names = (Path("runs") / f"train-{backend}-{number}" for number in itertools.count(1))
    return next(name for name in names if not name.exists())
