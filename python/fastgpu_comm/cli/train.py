"""`fastgpu-comm train`: trains a small language model with several worker processes."""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastgpu_comm.trainer.demo import DemoOptions


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its arguments."""
    parser = subparsers.add_parser(
        "train",
        help="train a small GPT on the source files of Python's standard library",
        description="Trains a small byte-level GPT, data parallel, on text every machine has: the "
        "source files of Python's standard library. Starts its own worker processes; under "
        "torchrun it joins that job instead.",
    )
    parser.set_defaults(run=_run)
    parser.add_argument(
        "--backend", default="fastgpu", metavar="NAME", help="of torch.distributed [%(default)s]"
    )
    for flag, default, meaning in (
        ("--nproc", 2, "worker processes to start"),
        ("--steps", 1000, "optimizer steps"),
        ("--batch", 16, "samples a step, over all ranks"),
        ("--accumulation", 1, "micro-batches a step"),
        ("--checkpoint-every", 250, "steps from one checkpoint to the next"),
    ):
        parser.add_argument(
            flag, type=_positive, default=default, metavar="N", help=f"{meaning} [{default}]"
        )
    parser.add_argument(
        "--learning-rate", type=_rate, default=4e-3, metavar="RATE", help="[%(default)s]"
    )
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of every rank")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="[%(default)s]")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder for metrics, curve and checkpoints [a new one, runs/train-BACKEND-N]",
    )
    parser.add_argument(
        "--checkpoints", type=Path, metavar="FOLDER", help="[the folder checkpoints in --out]"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the newest good checkpoint of --out"
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(text)
    return value


# argparse says "invalid ... value".
_positive.__name__ = "whole number of at least 1"
_rate.__name__ = "number above 0"


def _run(arguments: argparse.Namespace) -> int:
    from fastgpu_comm import launch

    try:
        options = _options(arguments)
    except ValueError as error:
        print(f"fastgpu-comm train: {error}", file=sys.stderr)
        return 2
    if launch.is_rank():
        return _run_as_rank(options)
    print(f"starting   {arguments.nproc} worker processes", flush=True)
    command = [sys.executable, "-m", "fastgpu_comm", *arguments.argv]
    return launch.launch(command, arguments.nproc)


def _run_as_rank(options: DemoOptions) -> int:
    from fastgpu_comm.trainer import CheckpointError, demo

    try:
        demo.run(options)
    except CheckpointError as error:  # the user's to mend: the message says how
        print(f"fastgpu-comm train: {error}", file=sys.stderr)
        return 1
    return 0


def _options(arguments: argparse.Namespace) -> DemoOptions:
    from fastgpu_comm.backend import why_not_available
    from fastgpu_comm.trainer import demo, gpt, settings

    if reason := why_not_available(arguments.backend):
        raise ValueError(reason)
    if arguments.resume and arguments.out is None:
        raise ValueError("--resume needs --out, the folder of the run to go on with.")
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
            checkpoint_folder=arguments.checkpoints,
            checkpoint_every=arguments.checkpoint_every,
            resume=arguments.resume,
        ),
    )


def _new_folder(backend: str) -> Path:
    """Returns the first folder of its kind that is not there yet."""
    names = (Path("runs") / f"train-{backend}-{number}" for number in itertools.count(1))
    return next(name for name in names if not name.exists())
