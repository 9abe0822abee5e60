"""Compares losses after the same training with each way to send gradients.

    python bench/ddp_loss.py                                 # all of it, minutes
    python bench/ddp_loss.py --tasks images --seeds 1        # a part
    python bench/ddp_loss.py --steps 30 --write              # writes bench/results/ddp_loss.md

Two ranks of one thread train a model once for each variant and seed. The seed decides the initial
model and the batches, so the runs of a seed differ in their communication only. The loss is that of
the final model on samples that no run trains on.

The tasks are the model of `fastgpu-comm train` on the standard library's source, and a small
convolutional network on images. The images are synthetic, because no package here ships a set: a
class is a smooth random pattern, and an image is the pattern of its class, shifted and scaled, in
noise.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

import fastgpu_comm
from fastgpu_comm import DistributedDataParallel, OuterOptimizer, codecs, hooks, launch
from fastgpu_comm.bench import markdown
from fastgpu_comm.trainer.demo import WarmupThenCosine
from fastgpu_comm.trainer.gpt import Gpt, GptShape
from fastgpu_comm.trainer.text import TextWindows, standard_library_text

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "bench" / "results" / "ddp_loss.md"
WORLD = 2
EVERY = 20  # steps between the outer steps of OuterOptimizer
SHAPE = GptShape(context=64, layers=2, width=128, heads=4)
CLASSES, SIDE, NOISE = 10, 16, 2.0

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """Something to learn.

    Attributes:
        model: Makes a model.
        batch: Returns a rank's batch of a step, by the given generator.
        held_out: The batches of the final loss.
        learning_rate: Of AdamW.
    """

    model: Callable[[], nn.Module]
    batch: Callable[[torch.Generator], Batch]
    held_out: Sequence[Batch]
    learning_rate: float


def text() -> Task:
    """The bytes of Python source files."""
    train, validation = (
        TextWindows(part, SHAPE.context) for part in standard_library_text(4_000_000)
    )

    def batch(generator: torch.Generator) -> Batch:
        indices = torch.randint(len(train), (8,), generator=generator).tolist()
        inputs, targets = zip(*(train[index] for index in indices), strict=True)
        return torch.stack(inputs), torch.stack(targets)

    spread = range(0, len(validation), max(1, len(validation) // 256))
    inputs, targets = zip(*(validation[index] for index in spread), strict=True)
    held_out = list(zip(torch.stack(inputs).split(64), torch.stack(targets).split(64), strict=True))
    return Task(lambda: Gpt(SHAPE), batch, held_out, 2e-3)


def images() -> Task:
    """Synthetic images of ten classes."""
    coarse = torch.randn(CLASSES, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    patterns = functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic")[:, 0]

    def draw(count: int, generator: torch.Generator) -> Batch:
        def numbers(low: int, high: int) -> list[int]:
            return torch.randint(low, high, (count,), generator=generator).tolist()

        labels = numbers(0, CLASSES)
        moved = [
            patterns[label].roll((down, right), (0, 1))
            for label, down, right in zip(labels, numbers(-3, 4), numbers(-3, 4), strict=True)
        ]
        scale = 0.5 + torch.rand(count, 1, 1, generator=generator)
        noise = NOISE * torch.randn(count, SIDE, SIDE, generator=generator)
        return (torch.stack(moved) * scale + noise).unsqueeze(1), torch.tensor(labels)

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(64 * 16, 128), nn.ReLU(), nn.Linear(128, CLASSES)),
        )

    generator = torch.Generator().manual_seed(1)
    held_out = [draw(256, generator) for _ in range(8)]
    return Task(model, lambda generator: draw(32, generator), held_out, 1e-3)


TASKS = {"text": text, "images": images}


def reduced(
    codec: codecs.Codec | str | None,
) -> Callable[..., tuple[nn.Module, torch.optim.Optimizer]]:
    """Returns a function that prepares training with a codec."""

    def prepare(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Any:
        return DistributedDataParallel(module, codec=codec), optimizer

    return prepare


def power_sgd(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """Prepares training with PowerSGD, which begins after a tenth of the steps."""
    model = DistributedDataParallel(module)
    state = hooks.PowerSgdState(model, rank=2, start_step=steps // 10)
    model.register_comm_hook(state, hooks.power_sgd_hook)
    return model, optimizer


def outer(codec: str | None) -> Callable[..., tuple[nn.Module, torch.optim.Optimizer]]:
    """Returns a function that prepares training with an OuterOptimizer."""

    def prepare(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Any:
        return module, OuterOptimizer(optimizer, EVERY, codec=codec)

    return prepare


VARIANTS = {
    "uncompressed": reduced(None),
    **{name: reduced(name) for name in codecs.NAMES if name != "1bit"},  # not for AdamW
    "int4, residuals of 8 bits": reduced(codecs.Codec("int4", feedback=True, residual_bits=8)),
    "int8 stochastic": reduced(codecs.Codec("int8", feedback=False, rounding="stochastic")),
    "int4 stochastic": reduced(codecs.Codec("int4", feedback=False, rounding="stochastic")),
    "PowerSGD": power_sgd,
    "OuterOptimizer": outer(None),
    "OuterOptimizer int4": outer("int4"),
}


def train(task: Task, variant: str, seed: int, steps: int) -> tuple[float, float]:
    """Trains a model; returns its final loss, and the megabytes that a rank sent in all steps."""
    torch.manual_seed(seed)
    module = task.model()
    adamw = torch.optim.AdamW(module.parameters(), task.learning_rate, betas=(0.9, 0.98))
    scheduler = LambdaLR(adamw, WarmupThenCosine(steps))
    model, optimizer = VARIANTS[variant](module, adamw, steps)
    generator = torch.Generator().manual_seed(1000 * seed + dist.get_rank())
    before = fastgpu_comm.stats()["bytes_sent"]
    for _ in range(steps):
        loss_of(model, task.batch(generator)).backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    if isinstance(optimizer, OuterOptimizer):
        optimizer.outer_step()
    sent = fastgpu_comm.stats()["bytes_sent"] - before
    module.eval()
    with torch.no_grad():
        losses = [loss_of(module, batch) for batch in task.held_out]
    return float(torch.stack(losses).mean()), sent / 1e6


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Returns the mean loss over the predictions of a batch."""
    inputs, targets = batch
    return functional.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())


def rows(name: str, variants: Sequence[str], seeds: int, steps: int) -> Iterator[list[str]]:
    """Trains with every variant and yields the cells of its line."""
    task = TASKS[name]()
    exact: list[float] = []
    for variant in variants:
        results = [train(task, variant, seed, steps) for seed in range(seeds)]
        losses = [loss for loss, _ in results]
        exact = exact or losses
        more = [100 * (loss / other - 1) for loss, other in zip(losses, exact, strict=True)]
        cells = [name, variant, f"{statistics.mean(losses):.4f}"]
        cells += [f"{min(losses):.4f} to {max(losses):.4f}"]
        cells += [f"{statistics.mean(more):+.2f}%", f"{max(more, key=abs):+.2f}%"]
        yield [*cells, f"{results[0][1] / steps:.3f}"]


def page(table: Sequence[Sequence[str]], seeds: int, steps: int) -> str:
    """Returns the page."""
    head = ["task", "variant", "loss", "over seeds", "to uncompressed", "farthest", "MB a step"]
    return f"""\
# Losses of DistributedDataParallel and OuterOptimizer

    python bench/ddp_loss.py --write

{markdown.machine_list()}
{WORLD} ranks, {steps} steps of AdamW, {seeds} seeds. `text`: the GPT of `fastgpu-comm train` on the
standard library's source, nats per byte. `images`: a convolutional network on synthetic images of
{CLASSES} classes, nats per image. Both on samples that were not trained on. `to uncompressed`
compares runs of the same seed: the mean over the seeds, and the seed that is farthest from it.
PowerSGD has rank 2 and begins after a tenth of the steps. OuterOptimizer communicates once in
{EVERY} steps, and is otherwise as by default. `MB a step` is what a rank sends, on average.

{markdown.table(head, table, left=2)}"""


def be_rank(arguments: argparse.Namespace) -> None:
    """Trains as one rank; rank 0 prints the tables as they grow."""
    torch.set_num_threads(1)
    dist.init_process_group("fastgpu")
    first = dist.get_rank() == 0
    start = time.perf_counter()
    table = []
    for name in arguments.tasks.split(","):
        variants = ["uncompressed", *arguments.variants.split(";")]
        for cells in rows(name, variants, arguments.seeds, arguments.steps):
            table.append(cells)
            if first:
                print(f"{time.perf_counter() - start:5.0f} s  {'  '.join(cells)}", flush=True)
    if first:
        print(page(table, arguments.seeds, arguments.steps), flush=True)
        if arguments.write:
            PAGE.write_text(page(table, arguments.seeds, arguments.steps))
    dist.destroy_process_group()


def parse() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", default=",".join(TASKS), help="default: %(default)s")
    others = ";".join(name for name in VARIANTS if name != "uncompressed")
    parser.add_argument("--variants", default=others, help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=300, help="default: %(default)s")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    for name in arguments.variants.split(";"):
        if name not in VARIANTS:
            parser.error(f"{name!r}: the variants are {others}")
    unknown = [name for name in arguments.tasks.split(",") if name not in TASKS]
    if unknown:
        parser.error(f"{', '.join(unknown)}: the tasks are {', '.join(TASKS)}")
    return arguments


def main() -> None:
    """Starts the ranks, or is one."""
    arguments = parse()
    if launch.is_rank():
        be_rank(arguments)
        return
    os.environ.setdefault("FASTGPU_LOG", "error")  # no warning of a shared machine
    raise SystemExit(launch.launch([sys.executable, __file__, *sys.argv[1:]], WORLD))


if __name__ == "__main__":
    main()
