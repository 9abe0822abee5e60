"""Times training until it reaches a loss, with each way to send gradients, on several links.

    python bench/time_to_loss.py                             # every link
    python bench/time_to_loss.py --links 1gbit --seeds 1     # one link
    python bench/time_to_loss.py --links 1gbit --write  # its lines of bench/results/time_to_loss.md

Two ranks of one thread, on the links of bench/ddp.py, train the small GPT of bench/ddp_loss.py on
the standard library's source, with AdamW. A seed decides the initial model and the batches. For
each seed all variants train once, in a random order. A run is over when the mean training loss of
the last 20 steps, over both ranks, has reached the wanted loss, or after 400 steps.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import idle
import torch
import torch.distributed as dist
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench import ddp, ddp_loss  # noqa: E402  found in ROOT

from fastgpu_comm.bench import markdown  # noqa: E402
from fastgpu_comm.gloo import ignore_environment  # noqa: E402
from fastgpu_comm.trainer.demo import WarmupThenCosine  # noqa: E402

PAGE = ROOT / "bench" / "results" / "time_to_loss.md"
LOSS = 2.5  # nats per byte
SMOOTHED = 20  # steps
STEPS = 400  # of the learning rate's schedule, and at most
LINKS = [name for name in ddp.LINKS if name != "unlimited"]  # which no real network resembles
VARIANTS = [name for name in ddp.VARIANTS if name != ddp.COMPUTE]
COUNTS = ["link", "repeated", "disturbed"]
HEAD = ["link", "gradients", "time, s", "steps, by seed", "sent, MB", "gloo over it"]

Run = dict[str, Any]


def train(wrap: Callable[[nn.Module], nn.Module], task: ddp_loss.Task, seed: int) -> Run:
    """Trains until the loss is reached; returns seconds, steps, megabytes and the last loss."""
    torch.manual_seed(seed)
    module = task.model()
    optimizer = torch.optim.AdamW(module.parameters(), task.learning_rates["AdamW"])
    scheduler = LambdaLR(optimizer, WarmupThenCosine(STEPS))
    model = wrap(module)
    generator = torch.Generator().manual_seed(1000 * seed + dist.get_rank())
    losses: deque[float] = deque(maxlen=SMOOTHED)
    seconds, sent = 0.0, ddp.bytes_sent()
    for step in range(1, STEPS + 1):
        dist.barrier()
        start = time.perf_counter()
        loss = ddp_loss.loss_of(model, task.batch(generator))
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        found = torch.tensor([time.perf_counter() - start, loss.item()], dtype=torch.float64)
        dist.all_reduce(found, dist.ReduceOp.AVG)
        seconds += found[0].item()
        losses.append(found[1].item())
        if step >= SMOOTHED and not statistics.mean(losses) > LOSS:
            break
    megabytes = (ddp.bytes_sent() - sent) / 1e6
    last = statistics.mean(losses)
    return {"seconds": seconds, "steps": step, "megabytes": megabytes, "loss": last}


def be_rank(names: Sequence[str], seeds: int) -> None:
    """Trains as one rank; rank 0 prints a line of JSON."""
    ignore_environment()  # fastgpu is compared with the real gloo
    torch.set_num_threads(1)
    dist.init_process_group("fastgpu", timeout=ddp.TIMEOUT)
    task = ddp_loss.TASKS["text"]()
    shuffle, counts = random.Random(0), idle.Counts()
    found = []
    for seed in range(seeds):
        order = list(names)
        shuffle.shuffle(order)
        found.append(
            {
                name: idle.undisturbed(
                    functools.partial(train, ddp.VARIANTS[name], task, seed), counts
                )
                for name in order
            }
        )
    if dist.get_rank() == 0:
        told = {"seeds": found, "counts": [counts.repeated, counts.disturbed]}
        print("@@" + json.dumps(told), flush=True)
    dist.barrier()
    os._exit(0)  # gloo's threads may abort a process that ends


def rows(link: str, found: Sequence[dict[str, Run]]) -> Iterator[list[str]]:
    """Yields the cells of a link's lines."""
    for name in (name for name in VARIANTS if name in found[0]):
        runs = [by_variant[name] for by_variant in found]
        reached = [run["loss"] <= LOSS for run in runs]
        steps = [
            str(run["steps"]) if done else f"loss {run['loss']:.2f}"
            for run, done in zip(runs, reached, strict=True)
        ]
        cells = [link, name, "not reached", ", ".join(steps)]
        sent = statistics.median(run["megabytes"] for run in runs)
        cells += [f"{sent:.0f}" if ddp.LINKS[link].hosts > 1 else "", ""]
        if all(reached):
            cells[2] = f"{statistics.median(run['seconds'] for run in runs):.1f}"
            if "gloo" in found[0]:
                ratios = [each["gloo"]["seconds"] / each[name]["seconds"] for each in found]
                cells[-1] = f"{statistics.median(ratios):.2f}"
        yield cells


def page(table: Iterable[Sequence[str]], counts: Iterable[Sequence[str]], seeds: int) -> str:
    """Returns the page, of the rows of the runs and those of how often they were repeated."""
    return f"""\
# Time to a fixed loss

    python bench/time_to_loss.py --seeds {seeds} --write

{markdown.machine_list()}
Two ranks of one thread train the GPT of `fastgpu-comm train` on the standard library's source, on
the links of [ddp.md](ddp.md), until the mean training loss of {SMOOTHED} steps is {LOSS} nats per
byte. All variants of a link trained in the same processes, in a random order for each seed. Times
and bytes are medians over the seeds, ratios the medians of those of a seed. `sent` left a host,
counted by its interface.

The optimizer is AdamW, for which 1bit is not made: `Trainer` refuses the pair. "not reached": after
{STEPS} steps the loss of a seed was still above {LOSS}; the column of steps has it, and `sent` is
that of all steps. PowerSGD has rank 2 and compresses from the third step on, ours and gloo's. The
time of `auto` includes its search.

{markdown.table(HEAD, ddp.by_link(table), left=2)}
A run was repeated if other programs used more than {idle.ALLOWED:.0%} of a processor meanwhile;
"disturbed" are those for which that was so in all of {idle.ATTEMPTS} attempts.

{markdown.table(COUNTS, ddp.by_link(counts))}"""


def main() -> None:
    """Trains with all variants, or is a rank."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names_of = ddp_loss.choice_of
    parser.add_argument("--links", type=names_of(LINKS), default=LINKS, help=", ".join(LINKS))
    parser.add_argument("--seeds", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--variants", type=names_of(VARIANTS), default=VARIANTS)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    if arguments.rank:
        be_rank(arguments.variants, arguments.seeds)
    reason = ddp.netns.unavailable(shaped=True)
    if reason is not None:
        print(f"skipped: {reason}")
        return
    command = [sys.executable, __file__, "--rank", "--seeds", str(arguments.seeds)]
    command += ["--variants", ",".join(arguments.variants)]
    table: list[list[str]] = []
    counts: list[list[str]] = []
    for link in arguments.links:
        told = ddp.run_ranks(ddp.LINKS[link], command)
        found = list(rows(link, told["seeds"]))
        counts.append([link, *map(str, told["counts"])])
        print(markdown.table(HEAD, found, left=2), counts[-1], flush=True)
        table += found
    if arguments.write:
        kept = [ddp.kept(PAGE, len(head), arguments.links) for head in (HEAD, COUNTS)]
        PAGE.write_text(page(kept[0] + table, kept[1] + counts, arguments.seeds))


if __name__ == "__main__":
    main()
