"""Times training on a slow link until it reaches a loss, with each way to send gradients.

    python bench/time_to_loss.py                        # at 100 Mbit/s
    python bench/time_to_loss.py --link 1gbit --rounds 1
    python bench/time_to_loss.py --write                # replace bench/results/time_to_loss.md

Two ranks of one thread, on two hosts as in bench/ddp.py, train the small GPT of bench/ddp_loss.py
on the standard library's source, with AdamW. A round has a seed, which decides the initial model
and the batches, and trains once with each variant, in a random order. A run is over when the mean
training loss of the last 20 steps, over both ranks, has reached the wanted loss.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
VARIANTS = [
    *("fastgpu", "fastgpu fp16", "fastgpu int8", "fastgpu int4", ddp.AUTO),
    *("gloo", "gloo fp16 hook", "gloo PowerSGD hook"),
]

Run = dict[str, Any]


def train(wrap: Callable[[nn.Module], nn.Module], task: ddp_loss.Task, seed: int) -> Run:
    """Trains until the loss is reached; returns seconds, steps and bytes."""
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
        if len(losses) == SMOOTHED and statistics.mean(losses) <= LOSS:
            megabytes = (ddp.bytes_sent() - sent) / 1e6
            return {"seconds": seconds, "steps": step, "megabytes": megabytes}
    raise SystemExit(f"the loss is above {LOSS} after {STEPS} steps")


def be_rank(rounds: int) -> None:
    """Trains as one rank; rank 0 prints a line of JSON."""
    ignore_environment()  # fastgpu is compared with the real gloo
    torch.set_num_threads(1)
    dist.init_process_group("fastgpu", timeout=ddp.TIMEOUT)
    task = ddp_loss.TASKS["text"]()
    shuffle = random.Random(0)
    found = []
    for seed in range(rounds):
        order = list(VARIANTS)
        shuffle.shuffle(order)
        found.append({name: train(ddp.VARIANTS[name], task, seed) for name in order})
    if dist.get_rank() == 0:
        print("@@" + json.dumps(found), flush=True)
    dist.barrier()
    os._exit(0)  # gloo's threads may abort a process that ends


def page(link: str, found: Sequence[dict[str, Run]]) -> str:
    """Returns the page."""
    table = []
    for name in VARIANTS:
        runs = [round_[name] for round_ in found]
        ratios = [round_["gloo"]["seconds"] / round_[name]["seconds"] for round_ in found]
        steps = " ".join(str(run["steps"]) for run in runs)
        cells = [name, f"{statistics.median(run['seconds'] for run in runs):.1f}", steps]
        cells.append(f"{statistics.median(run['megabytes'] for run in runs):.0f}")
        table.append([*cells, f"{statistics.median(ratios):.2f}"])
    head = ["gradients", "time, s", "steps, by seed", "sent, MB", "gloo over it"]
    return f"""\
# Time to a fixed loss

    python bench/time_to_loss.py --link {link} --rounds {len(found)} --write

{markdown.machine_list()}
Two ranks of one thread on two hosts, joined by a link of {link}, train the GPT of
`fastgpu-comm train` on the standard library's source, until the mean training loss of {SMOOTHED}
steps is {LOSS} nats per byte. All variants trained in the same processes, in a random order for
each seed. Times and bytes are medians over the seeds, ratios the medians of those of a seed. `sent`
left a host, counted by its interface.

{markdown.table(head, table, left=1)}"""


def main() -> None:
    """Trains with all variants, or is a rank."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    links = [name for name, link in ddp.LINKS.items() if link.hosts > 1]
    parser.add_argument("--link", choices=links, default="100mbit", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="seeds; default: %(default)s")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    if arguments.rank:
        be_rank(arguments.rounds)
    reason = ddp.netns.unavailable(shaped=True)
    if reason is not None:
        print(f"skipped: {reason}")
        return
    command = [sys.executable, __file__, "--rank", "--rounds", str(arguments.rounds)]
    text = page(arguments.link, ddp.run_ranks(ddp.LINKS[arguments.link], command))
    print(text)
    if arguments.write:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
