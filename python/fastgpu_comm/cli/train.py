"""`fastgpu-comm train`: trains a small language model on several ranks."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgpu_comm import names
from fastgpu_comm.cli import ranks
from fastgpu_comm.cli.arguments import count, exit_with, folder_problems, name_of, number

if TYPE_CHECKING:
    from fastgpu_comm.trainer.demo import DemoOptions

PRECISIONS = ("fp32", "bf16", "fp16")
DEVICES = ("cpu", "cuda")
CODECS = ("none", "auto", "fp16", "bf16", "int8", "int4", "topk")  # 1bit is not for AdamW

DESCRIPTION = """\
Trains a small byte-level GPT, data parallel, on a text that every machine has: the source files of
Python's standard library. It starts --nproc ranks on this host, or joins the job if torchrun
started it.

  fastgpu-comm train --nproc 2 --steps 1000 --out runs/mine
  fastgpu-comm train --nproc 2 --steps 2000 --out runs/mine --resume"""


def add_parser(subparsers: Any) -> None:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "train",
        help="train a small GPT on the source files of Python's standard library",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    for flag, parse, default, metavar, meaning in (
        ("--backend", str, "fastgpu", "NAME", "backend of torch.distributed"),
        ("--nproc", count(), 2, "N", "ranks to start on this host"),
        ("--steps", count(), 1000, "N", "optimizer steps of the whole run"),
        ("--batch", count(), 16, "N", "samples of a step, over all ranks"),
        ("--accumulation", count(), 1, "N", "micro-batches of a step"),
        ("--checkpoint-every", count(), 250, "N", "steps from one checkpoint to the next"),
        ("--learning-rate", number(above=0), 4e-3, "RATE", "largest learning rate"),
        (
            "--precision",
            name_of("precision", PRECISIONS),
            "fp32",
            "NAME",
            "precision of the forward pass: " + ", ".join(PRECISIONS),
        ),
        (
            "--codec",
            _codec,
            "none",
            "NAME",
            "how gradients travel between ranks: " + ", ".join(CODECS),
        ),
        ("--device", name_of("device", DEVICES), "cpu", "NAME", "device of every rank: cpu, cuda"),
        ("--seed", count(0, 2**32 - 1), 0, "N", "seed of the weights and the samples' order"),
    ):
        parser.add_argument(
            flag,
            type=parse,
            default=default,
            metavar=metavar,
            help=f"{meaning} (default: {default})",
        )
    parser.add_argument(
        "--weighted",
        action="store_true",
        help="weigh ranks by their tokens; by default by their samples, which all have as many "
        "tokens here, so that the model is the same to rounding",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder for metrics, curve and checkpoints (default: a new runs/train-BACKEND-N)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue from the newest good checkpoint in --out"
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns a failed rank's exit status."""
    from fastgpu_comm import launch

    exit_with("train", ranks.problems(arguments.nproc))
    exit_with("train", _problems(arguments))
    try:
        options = _options(arguments)
    except ValueError as error:
        exit_with("train", [str(error)])
    if launch.is_rank():
        return ranks.run("train", lambda: _run_rank(options))
    folder = options.settings.folder
    exit_with("train", folder_problems(folder))
    print(f"starting   {arguments.nproc} ranks", flush=True)
    # A rank that looked for a new folder itself would find another one.
    return ranks.start([*arguments.argv, "--out", str(folder)], arguments.nproc)


def _run_rank(options: DemoOptions) -> int:
    from fastgpu_comm.trainer import demo

    demo.run(options)
    return 0


def _codec(text: str) -> str:
    """Reads the name of a codec; 1bit is refused with the reason."""
    if names.find(text.strip(), ("1bit",)):
        raise argparse.ArgumentTypeError(
            "codec 1bit does not work with AdamW, which this command uses. The choice is: "
            + ", ".join(CODECS)
        )
    return name_of("codec", CODECS)(text)


def _problems(arguments: argparse.Namespace) -> list[str]:
    """Returns why the arguments make no run; empty if they do."""
    import torch

    from fastgpu_comm.trainer.checkpoint import CheckpointFolder

    problems = ranks.backend_problems([arguments.backend])
    if arguments.accumulation > arguments.batch:
        problems.append(
            f"--accumulation {arguments.accumulation} is above --batch {arguments.batch}: a "
            "micro-batch needs a sample"
        )
    if arguments.device == "cuda" and not torch.cuda.is_available():
        problems.append("--device cuda needs a GPU, and torch finds none: use --device cpu")
    if arguments.codec != "none" and arguments.backend != "fastgpu":
        problems.append(f"--codec {arguments.codec} needs --backend fastgpu")
    if arguments.weighted and (arguments.backend, arguments.device) != ("fastgpu", "cpu"):
        problems.append("--weighted needs --backend fastgpu and --device cpu")
    if arguments.resume and arguments.out is None:
        problems.append("--resume needs --out, the folder of the run to continue")
    earlier = arguments.out and CheckpointFolder(arguments.out / "checkpoints", 1).steps()
    if earlier and not arguments.resume:
        problems.append(
            f"{arguments.out} has the checkpoints of an earlier run: continue it with --resume, or "
            "name another folder with --out"
        )
    return problems


def _options(arguments: argparse.Namespace) -> DemoOptions:
    """Returns the options of every rank.

    Raises:
        ValueError: The settings contradict each other.
    """
    from fastgpu_comm.trainer import demo, gpt, settings

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
            codec=None if arguments.codec == "none" else arguments.codec,
            clip_norm=1.0,
            evaluate_every=max(1, arguments.steps // 5),
            folder=arguments.out or _new_folder(arguments.backend),
            checkpoint_every=arguments.checkpoint_every,
            resume=arguments.resume,
        ),
        arguments.weighted,
    )


def _new_folder(backend: str) -> Path:
    """Returns the first of runs/train-BACKEND-1, -2, ... that does not exist."""
    folders = (Path("runs") / f"train-{backend}-{number}" for number in itertools.count(1))
    return next(folder for folder in folders if not folder.exists())
