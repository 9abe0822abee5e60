"""Times training steps of DistributedDataParallel: fastgpu's codecs and gloo, on several links.

    python bench/ddp.py                             # every link
    python bench/ddp.py --links 1gbit --rounds 3    # one link
    python bench/ddp.py --links 1gbit --write       # replace its lines in bench/results/ddp.md

Two ranks, with one thread each, train a GPT of 25 million parameters (101 MB of gradients). On
`loopback` both ranks are on one host. On the other links they are on two hosts: network namespaces
of this machine, joined by a virtual cable (veth) whose rate `tc` limits.

The variants take turns in the same processes: every round runs some steps of each variant, in a
random order. The time of a step is that of the slowest rank. `compute` is the step without
communication, and `exposed` is the time that communication adds to it. `sent` is the number of
bytes that left a host in a step, by the counter of its interface. `link` is the time that those
bytes take at the link's rate; `exposed` can be less only if backward overlaps with communication.
Steps during which other programs used the processors are repeated: see bench/idle.py.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ddp_plot
import idle
import torch
import torch.distributed as dist
from ddp_variants import AUTO, COMPUTE, TIMEOUT, VARIANTS
from torch import Tensor
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.process import netns  # noqa: E402  found in ROOT

import fastgpu_comm  # noqa: E402
from fastgpu_comm.bench import markdown  # noqa: E402
from fastgpu_comm.gloo import ignore_environment  # noqa: E402
from fastgpu_comm.trainer.gpt import Gpt, GptShape  # noqa: E402

PAGE = ROOT / "bench" / "results" / "ddp.md"
PORT = 29500  # free, because the namespaces are new
SHAPE = GptShape(context=64, layers=8, width=512, heads=8)
BATCH = 1
CHOICES = ["link", "rounds", "repeated", "disturbed", "auto chose"]


@dataclass(frozen=True)
class Link:
    """A link between the ranks.

    Attributes:
        rate: The rate as `tc` writes it; None: not limited.
        bits_per_second: The same rate as a number; 0 if not limited.
        burst: The bytes that a host may send ahead of the rate, enough to hide timer delays.
        steps: How many steps a variant makes in a round.
        hosts: How many hosts the two ranks are on.
    """

    rate: str | None
    bits_per_second: float
    burst: str
    steps: int
    hosts: int = 2


LINKS = {
    "loopback": Link(None, 0, "", 3, hosts=1),
    "unlimited": Link(None, 0, "", 3),
    "10gbit": Link("10gbit", 10e9, "2mb", 3),
    "1gbit": Link("1gbit", 1e9, "256kb", 2),
    "100mbit": Link("100mbit", 1e8, "128kb", 1),
}


def bytes_sent() -> int:
    """Returns the bytes sent over the veth of this host; 0 without a veth."""
    counter = Path(f"/sys/class/net/{netns.INTERFACE}/statistics/tx_bytes")
    return int(counter.read_text()) if counter.exists() else 0


class Rank:
    """The models of one rank, and their steps."""

    def __init__(self, names: Sequence[str]) -> None:
        """Makes a model for each variant, with the same parameters."""
        torch.set_num_threads(1)
        self._models = {}
        for name in names:
            torch.manual_seed(0)
            self._models[name] = VARIANTS[name](Gpt(SHAPE))
        self._generator = torch.Generator().manual_seed(1 + dist.get_rank())
        self.counts = idle.Counts()
        for name in names:  # buckets are rebuilt, and PowerSGD begins
            self._train(name, 3)
        if AUTO in names:
            idle.undisturbed(self._choose, self.counts)

    def _choose(self) -> None:
        """Lets `auto` choose, anew if it has chosen before."""
        self._auto.load_reducer_state_dict(self._auto.reducer_state_dict() | {"bucket_plan": None})
        self._train(AUTO, 3)
        while not self._auto.codec_choice()["settled"]:
            self._train(AUTO, 1)

    @property
    def _auto(self) -> fastgpu_comm.DistributedDataParallel:
        model = self._models[AUTO]
        assert isinstance(model, fastgpu_comm.DistributedDataParallel)
        return model

    def chosen(self) -> str:
        """Returns what `auto` has chosen, such as "int4 in parts of 8 MiB"."""
        choice = self._auto.codec_choice()
        print("auto:", choice["reason"], file=sys.stderr)
        limit = choice["limit_bytes"]
        parts = f" in parts of {limit >> 20} MiB" if limit else ""
        return " and ".join(dict.fromkeys(each["codec"] for each in choice["buckets"])) + parts

    def _batch(self) -> Tensor:
        return torch.randint(256, (BATCH, SHAPE.context + 1), generator=self._generator)

    def _train(self, name: str, steps: int) -> None:
        model = self._models[name]
        for _ in range(steps):
            text = self._batch()
            scores = model(text[:, :-1])
            functional.cross_entropy(scores.flatten(0, 1), text[:, 1:].flatten()).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter.sub_(parameter.grad, alpha=1e-4)
                    parameter.grad = None

    def round(self, order: Sequence[str], steps: int) -> dict[str, dict[str, float]]:
        """Returns the seconds and the sent bytes of a step of each variant."""

        def timed(name: str) -> dict[str, float]:
            sent, start = bytes_sent(), time.perf_counter()
            self._train(name, steps)
            spent = torch.tensor([time.perf_counter() - start], dtype=torch.float64)
            sent = bytes_sent() - sent
            dist.all_reduce(spent, dist.ReduceOp.MAX)
            return {"seconds": spent.item() / steps, "bytes": sent / steps}

        runs = {name: functools.partial(timed, name) for name in order}
        return {name: idle.undisturbed(run, self.counts) for name, run in runs.items()}


def be_rank(names: Sequence[str], rounds: int, steps: int) -> None:
    """Measures as one rank; rank 0 prints a line of JSON."""
    ignore_environment()  # fastgpu is compared with the real gloo
    dist.init_process_group("fastgpu", timeout=TIMEOUT)
    rank = Rank(names)
    shuffle = random.Random(0)
    found = []
    for _ in range(rounds):
        order = list(names)
        shuffle.shuffle(order)
        found.append(rank.round(order, steps))
    if dist.get_rank() == 0:
        chosen = rank.chosen() if AUTO in names else ""
        counts = [rank.counts.repeated, rank.counts.disturbed]
        told = {"rounds": found, "auto": chosen, "counts": counts}
        print("@@" + json.dumps(told), flush=True)
    dist.barrier()
    os._exit(0)  # gloo's threads may abort a process that ends


def measure(link: Link, names: Sequence[str], rounds: int) -> dict[str, Any]:
    """Runs the two ranks; returns what the first printed: see be_rank."""
    command = [sys.executable, __file__, "--rank", "--variants", ",".join(names)]
    command += ["--rounds", str(rounds), "--steps", str(link.steps)]
    found: dict[str, Any] = run_ranks(link, command)
    return found


def run_ranks(link: Link, command: Sequence[str]) -> Any:
    """Runs the command as two ranks over the link; returns what rank 0 printed as JSON after @@."""
    with netns.hosts(link.hosts, rate=link.rate, burst=link.burst) as hosts:
        ranks = []
        with tempfile.TemporaryFile("w+") as output:
            for rank in range(2):
                environment = os.environ | {
                    "RANK": str(rank),
                    "WORLD_SIZE": "2",
                    "MASTER_ADDR": hosts[0].address,
                    "MASTER_PORT": str(PORT),
                    "GLOO_SOCKET_IFNAME": netns.INTERFACE,
                    "OMP_NUM_THREADS": "1",
                }
                environment.setdefault("FASTGPU_LOG", "error")  # no warning of a shared machine
                host = hosts[rank % link.hosts]
                ranks.append(
                    subprocess.Popen(host.command(command), env=environment, stdout=output)
                )
            try:
                statuses = [process.wait() for process in ranks]
            finally:
                for process in ranks:
                    process.kill()
            output.seek(0)
            printed = output.read()
    if any(statuses):
        raise SystemExit(f"{command[1]}: the ranks ended with {statuses}")
    return json.loads(printed.split("@@", 1)[1])


def rows(name: str, found: Sequence[dict[str, dict[str, float]]]) -> Iterator[list[str]]:
    """Yields the cells of a link's lines."""

    def median(variant: str, value: str) -> float:
        return statistics.median(round_[variant][value] for round_ in found)

    def ratio(variant: str, other: str) -> str:
        if other not in found[0]:
            return ""
        ratios = [round_[other]["seconds"] / round_[variant]["seconds"] for round_ in found]
        return f"{statistics.median(ratios):.2f}"

    for variant in (variant for variant in VARIANTS if variant in found[0]):
        seconds, sent = median(variant, "seconds"), median(variant, "bytes")
        exposed = [r[variant]["seconds"] - r[COMPUTE]["seconds"] for r in found]
        rate = LINKS[name].bits_per_second
        cells = [name, variant, f"{seconds:.3f}"]
        if variant == COMPUTE:
            yield [*cells, "", "", "", "", ""]
            continue
        megabytes = f"{sent / 1e6:.1f}" if LINKS[name].hosts > 1 else ""
        cells += [f"{statistics.median(exposed):.3f}", megabytes]
        cells.append(f"{sent * 8 / rate:.3f}" if rate else "")
        yield [*cells, ratio(variant, "gloo"), ratio(variant, "gloo PowerSGD hook")]


def kept(page: Path, columns: int, measured: Sequence[str]) -> list[list[str]]:
    """Returns the rows of a page's table of so many columns, of links other than `measured`."""
    lines = page.read_text().splitlines() if page.exists() else []
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    others = set(LINKS) - set(measured)
    return [row for row in rows if len(row) == columns and row[0] in others]


def by_link(table: Iterable[Sequence[str]]) -> list[Sequence[str]]:
    """Returns the rows in the order of the links."""
    return sorted(table, key=lambda row: list(LINKS).index(row[0]))


def page(table: Iterable[Sequence[str]], choices: Iterable[Sequence[str]]) -> str:
    """Returns the page.

    Args:
        table: The rows of the measurements.
        choices: For each link: its name, the number of rounds, how many measurements were repeated
            and how many disturbed in every attempt, and what `auto` chose.
    """
    head = ["link", "variant", "step, s", "exposed, s", "sent, MB", "link, s"]
    head += ["gloo over it", "gloo PowerSGD over it"]
    return f"""\
# Training steps of DistributedDataParallel

    python bench/ddp.py --write

{markdown.machine_list()}
Two ranks, with one thread each, train a GPT of 25 million parameters (101 MB of gradients) by SGD.
Times are seconds of a step: the median over rounds, in which all variants took turns in the same
processes.
`exposed` is what communication adds to the step without it (`compute`). `sent` left a host in a
step, counted by its interface; `link` is the time of those bytes at the link's rate. The last two
columns are medians of ratios within a round. The hooks are torch's. Its bf16 hook refuses to run
without NCCL, so a function here calls it; gloo adds bfloat16 itself. PowerSGD has rank 2, and
gloo's hook one bucket. `views` is `gradient_as_bucket_view=True`. Rows of links that the last
run did not measure are those of earlier runs, whose machine may have been another.

![seconds of a step on each link](ddp.png)

{markdown.table(head, by_link(table), left=2)}
What `auto` chose among no codec, int8 and int4. On one host it always chooses `none`. A measurement
was repeated if other programs used more than {idle.ALLOWED:.0%} of a processor meanwhile;
"disturbed" are those for which that was so in all of {idle.ATTEMPTS} attempts.

{markdown.table(CHOICES, by_link(choices), left=1)}"""


def parse() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--links", default=",".join(LINKS), help="default: %(default)s")
    parser.add_argument("--variants", default=",".join(VARIANTS), help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.links.split(",") if name not in LINKS]
    if unknown:
        parser.error(f"{', '.join(unknown)}: the links are {', '.join(LINKS)}")
    return arguments


def main() -> None:
    """Measures the links in the arguments."""
    arguments = parse()
    wanted = arguments.variants.split(",")
    names = [name for name in VARIANTS if name in wanted]
    if arguments.rank:
        be_rank(names, arguments.rounds, arguments.steps)
    reason = netns.unavailable(shaped=True)
    if reason is not None:
        print(f"skipped: {reason}")
        return
    links = arguments.links.split(",")
    table: list[list[str]] = []
    choices: list[list[str]] = []
    for link in links:
        found = measure(LINKS[link], names, arguments.rounds)
        choices.append([link, str(arguments.rounds), *map(str, found["counts"]), found["auto"]])
        table += rows(link, found["rounds"])
        print(page(table[-len(names) :], choices[-1:]), flush=True)
    if arguments.write:
        others = kept(PAGE, len(CHOICES), links)
        PAGE.write_text(page(kept(PAGE, 8, links) + table, others + choices))
        ddp_plot.draw(PAGE, PAGE.with_suffix(".png"))


if __name__ == "__main__":
    main()
