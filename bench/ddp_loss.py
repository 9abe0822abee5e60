"""Compares validation losses after the same training with each way to send gradients.

    python bench/ddp_loss.py                                       # every run that is missing
    python bench/ddp_loss.py --tasks digits --variants 'AdamW int8' --seeds 1        # a part
    python bench/ddp_loss.py --report                # the page and plot in bench/results

Two ranks of one thread train a model once for each variant and seed. The seed decides the initial
model and the batches, so the runs of a seed differ in their communication only. Each run is kept in
bench/results/ddp_loss.jsonl and not repeated.

The tasks are the model of `fastgpu-comm train` on the standard library's source, and a small
convolutional network on the handwritten digits that scikit-learn's wheel ships:

    pip install --no-deps scikit-learn
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
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
RUNS = PAGE.with_suffix(".jsonl")
WORLD = 2
EVERY = 20  # steps between the outer steps of OuterOptimizer
POINTS = 40  # of a curve, at most
SHAPE = GptShape(context=64, layers=2, width=128, heads=4)
UNCOMPRESSED = "uncompressed"

Batch = tuple[Tensor, Tensor]
Run = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """Something to learn.

    Attributes:
        model: Makes a model.
        batch: Returns a rank's batch of a step, by the given generator.
        held_out: The batches of the validation loss.
        learning_rates: By optimizer.
    """

    model: Callable[[], nn.Module]
    batch: Callable[[torch.Generator], Batch]
    held_out: Sequence[Batch]
    learning_rates: dict[str, float]


def text() -> Task:
    """The bytes of Python source files."""
    train, validation = (
        TextWindows(part, SHAPE.context) for part in standard_library_text(2_000_000)
    )

    def collect(windows: TextWindows, indices: Sequence[int]) -> Batch:
        inputs, targets = zip(*(windows[index] for index in indices), strict=True)
        return torch.stack(inputs), torch.stack(targets)

    def batch(generator: torch.Generator) -> Batch:
        return collect(train, torch.randint(len(train), (8,), generator=generator).tolist())

    whole = range(len(validation))
    held_out = [collect(validation, whole[start : start + 64]) for start in whole[::64]]
    return Task(lambda: Gpt(SHAPE), batch, held_out, {"AdamW": 2e-3, "SGD": 0.1})


def digits() -> Task:
    """Handwritten digits of 8 x 8 pixels; every second one is for validation."""
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise SystemExit("the digits need scikit-learn: pip install --no-deps scikit-learn")
    with gzip.open(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        table = torch.tensor([[float(cell) for cell in line.split(",")] for line in file])
    images, labels = (table[:, :-1] / 8 - 1).view(-1, 1, 8, 8), table[:, -1].long()

    def batch(generator: torch.Generator) -> Batch:
        indices = 2 * torch.randint(len(labels) // 2, (32,), generator=generator)
        return images[indices], labels[indices]

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1)),
            *(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 16, 128), nn.ReLU()),
            nn.Linear(128, 10),
        )

    held_out = list(zip(images[1::2].split(64), labels[1::2].split(64), strict=True))
    return Task(model, batch, held_out, {"AdamW": 1e-3, "SGD": 0.02})


TASKS = {"text": text, "long text": text, "digits": digits}
STEPS = {"text": 300, "long text": 1000, "digits": 300}


def reduced(
    codec: codecs.Codec | str | None,
) -> Callable[..., tuple[nn.Module, torch.optim.Optimizer]]:
    """Returns a function that prepares training with a codec."""

    def prepare(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Any:
        return DistributedDataParallel(module, codec=codec), optimizer

    return prepare


def nudged(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """Prepares uncompressed training from weights that differ in their last bit."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1 + 2**-23)
    return DistributedDataParallel(module), optimizer


def power_sgd(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """Prepares training with PowerSGD, which begins after a tenth of the steps."""
    model = DistributedDataParallel(module)
    state = hooks.PowerSgdState(model, rank=2, start_step=steps // 10)
    model.register_comm_hook(state, hooks.power_sgd_hook)
    return model, optimizer


def outer(
    codec: str | None, **options: float
) -> Callable[..., tuple[nn.Module, torch.optim.Optimizer]]:
    """Returns a function that prepares training with an OuterOptimizer."""

    def prepare(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Any:
        return module, OuterOptimizer(optimizer, EVERY, codec=codec, **options)

    return prepare


NUDGED = "last bit"
METHODS = {
    UNCOMPRESSED: reduced(None),
    NUDGED: nudged,
    **{name: reduced(name) for name in codecs.NAMES},
    "int4 without feedback": reduced(codecs.Codec("int4", feedback=False)),
    "int4 with residuals of 8 bits": reduced(codecs.Codec("int4", feedback=True, residual_bits=8)),
    "int4 stochastic": reduced(codecs.Codec("int4", feedback=False, rounding="stochastic")),
    "PowerSGD": power_sgd,
    "OuterOptimizer": outer(None),
    "OuterOptimizer int4": outer("int4"),
    "OuterOptimizer mean": outer(None, lr=1.0, momentum=0.0),
}
# 1bit is not for AdamW; with SGD the exact codecs are not of interest.
VARIANTS = [f"AdamW {method}" for method in METHODS if method != "1bit"]
VARIANTS += [f"SGD {method}" for method in (UNCOMPRESSED, NUDGED, "topk", "1bit", "PowerSGD")]


def train(task: Task, variant: str, seed: int, steps: int) -> Run:
    """Trains a model; returns its losses, and the megabytes that a rank sent in a step."""
    name, method = variant.split(maxsplit=1)
    torch.manual_seed(seed)
    module = task.model()
    rate = task.learning_rates[name]
    inner: torch.optim.Optimizer = (
        torch.optim.AdamW(module.parameters(), rate, betas=(0.9, 0.98))
        if name == "AdamW"
        else torch.optim.SGD(module.parameters(), rate, momentum=0.9)
    )
    scheduler = LambdaLR(inner, WarmupThenCosine(steps))
    model, optimizer = METHODS[method](module, inner, steps)
    generator = torch.Generator().manual_seed(1000 * seed + dist.get_rank())
    losses = []
    before = fastgpu_comm.stats()["bytes_sent"]
    for _ in range(steps):
        loss = loss_of(model, task.batch(generator))
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        losses.append(loss.detach())
    if isinstance(optimizer, OuterOptimizer):
        optimizer.outer_step()
    sent = fastgpu_comm.stats()["bytes_sent"] - before
    curve = torch.stack([part.mean() for part in torch.stack(losses).chunk(POINTS)])
    dist.all_reduce(curve, dist.ReduceOp.AVG)
    return {
        "loss": validate(module, task.held_out),
        "curve": curve.tolist(),
        "megabytes": sent / 1e6 / steps,
    }


def validate(module: nn.Module, batches: Sequence[Batch]) -> float:
    """Returns the mean loss over the predictions of all batches, which the ranks share."""
    module.eval()
    sums = torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        for batch in batches[dist.get_rank() :: WORLD]:
            count = batch[1].numel()
            sums += torch.tensor([float(loss_of(module, batch)) * count, count])
    dist.all_reduce(sums)
    return float(sums[0] / sums[1])


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Returns the mean loss over the predictions of a batch."""
    inputs, targets = batch
    return functional.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())


def kept() -> dict[tuple[str, str, int], Run]:
    """Returns the runs so far, by task, variant and seed."""
    if not RUNS.exists():
        return {}
    runs = [json.loads(line) for line in RUNS.read_text().splitlines()]
    return {
        (run["task"], run["variant"], run["seed"]): run
        for run in runs
        if run["steps"] == STEPS[run["task"]]
    }


def be_rank(arguments: argparse.Namespace) -> None:
    """Trains as one rank what is not kept yet."""
    done = kept()  # before the ranks meet: rank 0 adds to it later
    torch.set_num_threads(1)
    dist.init_process_group("fastgpu")
    for name in arguments.tasks:
        task, steps = TASKS[name](), STEPS[name]
        for seed in range(arguments.seeds):
            for variant in arguments.variants:
                if (name, variant, seed) in done:
                    continue
                start = time.perf_counter()
                run = train(task, variant, seed, steps)
                if dist.get_rank() == 0:
                    seconds = time.perf_counter() - start
                    print(
                        f"{seconds:4.0f} s  {name} {variant} {seed}: {run['loss']:.4f}", flush=True
                    )
                    run |= {"task": name, "variant": variant, "seed": seed, "steps": steps}
                    RUNS.parent.mkdir(exist_ok=True)
                    with RUNS.open("a") as file:
                        file.write(json.dumps(run) + "\n")
    dist.destroy_process_group()


def main() -> None:
    """Starts the ranks, is one, or writes the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=choice_of(TASKS), default=list(TASKS))
    parser.add_argument("--variants", type=choice_of(VARIANTS), default=VARIANTS)
    parser.add_argument("--seeds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--report", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    if arguments.report:
        write_report()
    elif launch.is_rank():
        be_rank(arguments)
    else:
        os.environ.setdefault("FASTGPU_LOG", "error")  # no warning of a shared machine
        raise SystemExit(launch.launch([sys.executable, __file__, *sys.argv[1:]], WORLD))


def choice_of(names: Any) -> Callable[[str], list[str]]:
    """Returns a parser of some of these names, with commas between them."""

    def parse(said: str) -> list[str]:
        chosen = said.split(",")
        if not set(chosen) <= set(names):
            raise argparse.ArgumentTypeError(f"choose from {', '.join(names)}")
        return chosen

    return parse


def rows_of_page() -> dict[tuple[str, str], list[str]]:
    """Returns the rows of the page as it is, by task and variant."""
    lines = PAGE.read_text().splitlines() if PAGE.exists() else []
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {(row[0], f"{row[1]} {row[2]}"): row for row in rows if row[0] in TASKS}


def differences(runs: dict[tuple[str, str, int], Run], task: str, variant: str) -> list[float]:
    """Returns, by seed, how many percent the loss is above that of the uncompressed run."""
    exact = f"{variant.split()[0]} {UNCOMPRESSED}"
    return [
        100 * (run["loss"] / runs[task, exact, seed]["loss"] - 1)
        for (name, each, seed), run in sorted(runs.items())
        if (name, each) == (task, variant) and (task, exact, seed) in runs
    ]


def write_report() -> None:
    """Writes the page and the plot of the runs that are kept."""
    runs, earlier = kept(), rows_of_page()
    table = []
    for task in TASKS:
        for variant in VARIANTS:
            done = [run for (*key, _), run in sorted(runs.items()) if key == [task, variant]]
            if not done:
                table += [row] if (row := earlier.get((task, variant))) else []
                continue
            losses = [run["loss"] for run in done]
            more = differences(runs, task, variant)
            by_seed = " ".join(f"{each:+.2f}" for each in more)
            cells = [task, *variant.split(maxsplit=1), f"{statistics.mean(losses):.4f}"]
            cells += [f"{min(losses):.4f} to {max(losses):.4f}"]
            cells += [f"{statistics.mean(more):+.2f}", by_seed, f"{done[0]['megabytes']:.3f}"]
            table.append(cells)
    head = ["task", "optimizer", "gradients", "loss"]
    head += ["over seeds", "mean %", "by seed %", "MB a step"]
    PAGE.write_text(f"""\
# Losses of DistributedDataParallel and OuterOptimizer

    python bench/ddp_loss.py && python bench/ddp_loss.py --report

{markdown.machine_list()}
{WORLD} ranks. `text`: the GPT of `fastgpu-comm train` on the standard library's source,
{STEPS["text"]} steps, nats per byte; `long text`: the same with {STEPS["long text"]} steps.
`digits`: a convolutional network on the handwritten digits of scikit-learn, {STEPS["digits"]}
steps, nats per image; every second image is for validation. The losses are over the whole
validation set. The runs of a seed have the same initial weights, batches and learning rates.

`mean %` and `by seed %` compare with the uncompressed run of the same seed and optimizer. "last
bit" is an uncompressed run whose initial weights differ in their last bit: differences as small as
its are chance. A row with fewer than three numbers by seed has as many seeds.

PowerSGD has rank 2 and begins after a tenth of the steps. OuterOptimizer communicates once in
{EVERY} steps, and is otherwise as by default; "mean" has `lr=1, momentum=0`. `MB a step` is what a
rank sends, on average.

![Losses by step and variant](ddp_loss.png)

{markdown.table(head, table, left=3)}""")
    if len(table) == len({key[:2] for key in runs}):  # else the curves of some rows are lost
        draw(runs, PAGE.with_suffix(".png"))


def draw(runs: dict[tuple[str, str, int], Run], path: Path) -> None:
    """Draws, for each task, the training losses by step and the differences of the final ones."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = [task for task in TASKS if any(key[0] == task for key in runs)]
    figure = Figure(figsize=(13, 5 * len(tasks)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes_of_tasks = figure.subplots(len(tasks), 2, squeeze=False)
    for (curves, dots), task in zip(axes_of_tasks, tasks, strict=True):
        variants = [name for name in VARIANTS if any(key[:2] == (task, name) for key in runs)]
        for number, variant in enumerate(variants):
            style = {"color": f"C{number % 10}", "linestyle": "-" if number < 10 else "--"}
            lines = [run["curve"] for key, run in runs.items() if key[:2] == (task, variant)]
            mean = [statistics.mean(point) for point in zip(*lines, strict=True)]
            steps = [STEPS[task] * (at + 0.5) / len(mean) for at in range(len(mean))]
            curves.plot(steps, mean, label=variant, linewidth=1.2, **style)
            more = differences(runs, task, variant)
            dots.plot(more, [number] * len(more), "o", markersize=4, color=style["color"])
        curves.set(xlabel="step", ylabel="training loss (nats)", yscale="log", title=task)
        curves.legend(fontsize=7, ncols=2)
        dots.axvspan(-0.5, 0.5, color="gray", alpha=0.2, label="0.5 %")
        dots.set_yticks(range(len(variants)), variants, fontsize=8)
        dots.invert_yaxis()
        dots.set_xscale("symlog", linthresh=1)
        ticks = (-1, 0, 1, 10, 100, 1000)
        dots.set_xticks(ticks, [f"{tick:+}" if tick else "0" for tick in ticks])
        dots.set(xlabel="validation loss against uncompressed, a dot for each seed (%)", title=task)
        dots.legend(fontsize=7)
        for axes in (curves, dots):
            axes.grid(alpha=0.3)
    figure.savefig(path)


if __name__ == "__main__":
    main()
