"""Measures fastgpu through torch.distributed: calls, overlap, queues, set-up and idle cost.

    python bench/torch_path.py [--parts calls,overlap,outstanding,setup,idle] [--scale 1]

calls        dist.all_reduce of 8 B to 4 KiB on 2 ranks. The difference to torch's backend `fake`,
             which does nothing, is the cost of fastgpu.
overlap      25 MiB buckets with async_op=True while the main thread computes.
outstanding  1,000 asynchronous all_reduces of 4 KiB at once, and as many synchronous ones.
setup        init_process_group on an existing store, with 2 and 64 ranks.
idle         the processor time of an unused communicator, and of a rank that waits.

The compared variants take turns in the same processes, and the report shows medians over the turns.
It is a Markdown page. `--scale 0.1` gives a quick result.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist
from torch.testing._internal.distributed import fake_pg  # registers the backend `fake`

import fastgpu_comm
from fastgpu_comm.bench import markdown
from fastgpu_comm.bench.sizes import format_size
from fastgpu_comm.gloo import ignore_environment

TIMEOUT = datetime.timedelta(seconds=60)
CALL_BYTES = (8, 64, 512, 4096)
BUCKETS, BUCKET_BYTES = 4, 25 << 20
OUTSTANDING, OUTSTANDING_BYTES = 1000, 4096
MATMUL_SIZE = 192
IDLE_SECONDS, LATE_SECONDS = 2.0, 1.0
RESULTS = Path(__file__).parent / "results" / "torch_path.md"

Seconds = dict[str, list[float]]  # the time of each turn, by the name of the action


def elapsed(action: Callable[[], object]) -> float:
    """Returns the seconds that `action` took."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def turns(rounds: int, actions: Mapping[str, Callable[[], object]]) -> Seconds:
    """Runs the actions in turns, each after a barrier; drops the first turn as a warm-up."""
    taken: Seconds = {name: [] for name in actions}
    for round_ in range(rounds + 1):
        for name, action in actions.items():
            dist.barrier()
            seconds = elapsed(action)
            if round_:
                taken[name].append(seconds)
    return taken


def calls(scale: float) -> Seconds:
    """Returns the seconds per call, by "BYTES BACKEND"."""
    groups = {"fastgpu": dist.group.WORLD, "fake": dist.new_group(backend="fake")}
    groups["gloo"] = dist.new_group(backend="gloo", timeout=TIMEOUT)
    count = {"fastgpu": 1000, "fake": 1000, "gloo": 20}

    def repeat(backend: str, tensor: torch.Tensor) -> None:
        group = groups[backend]
        for _ in range(count[backend]):
            dist.all_reduce(tensor, group=group)

    taken: Seconds = {}
    for size in CALL_BYTES:
        tensor = torch.zeros(size // 4)
        actions = {name: partial(repeat, name, tensor) for name in groups}
        for name, seconds in turns(max(5, int(60 * scale)), actions).items():
            taken[f"{size} {name}"] = [one / count[name] for one in seconds]
    return taken


def overlap(scale: float) -> Seconds:
    """Returns the seconds of communication, of computation and of both, by "RANKS: ACTION"."""
    buckets = [torch.zeros(BUCKET_BYTES // 4) for _ in range(BUCKETS)]
    matrix = torch.full((MATMUL_SIZE, MATMUL_SIZE), 1.0 / MATMUL_SIZE)

    def start() -> list[dist.Work]:
        return [dist.all_reduce(bucket, async_op=True) for bucket in buckets]

    def communicate(meanwhile: Callable[[], object]) -> None:
        works = start()
        meanwhile()
        for work in works:
            work.wait()

    def multiply(times: int) -> None:
        for _ in range(times):
            torch.mm(matrix, matrix)

    def nothing() -> None:
        pass

    communication = statistics.median(turns(3, {"alone": partial(communicate, nothing)})["alone"])
    one = statistics.median(turns(3, {"one": partial(multiply, 20)})["one"]) / 20
    agreed = torch.tensor([communication, communication / one])
    dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
    span, times = float(agreed[0]), int(agreed[1])
    computing: dict[str, Callable[[], object]] = {
        "every rank": partial(multiply, times),
        "rank 0 only": partial(multiply, times) if dist.get_rank() == 0 else nothing,
        "another device": partial(time.sleep, span),
    }
    taken: Seconds = {}
    for who, compute in computing.items():
        actions: dict[str, Callable[[], object]] = {
            f"{who}: communication": partial(communicate, nothing),
            f"{who}: computation": compute,
            f"{who}: both": partial(communicate, compute),
        }
        taken |= turns(max(3, int(12 * scale)), actions)
    return taken


def outstanding(scale: float) -> Seconds:
    """Returns the seconds for many all_reduces, synchronous, or all started before any wait."""
    tensors = [torch.ones(OUTSTANDING_BYTES // 4) for _ in range(OUTSTANDING)]

    def synchronous() -> None:
        for tensor in tensors:
            dist.all_reduce(tensor, op=dist.ReduceOp.AVG)

    def asynchronous() -> None:
        works = [dist.all_reduce(t, op=dist.ReduceOp.AVG, async_op=True) for t in tensors]
        for work in works:
            work.wait()

    taken = turns(
        max(3, int(30 * scale)), {"synchronous": synchronous, "asynchronous": asynchronous}
    )
    assert all(bool((tensor == 1).all()) for tensor in tensors)
    return taken


def idle(scale: float) -> Seconds:
    """Returns this process's processor seconds while idle, and while rank 0 waits for rank 1."""
    tensor = torch.zeros(1 << 20)
    for _ in range(10):
        dist.all_reduce(tensor)
    start = time.process_time()
    time.sleep(IDLE_SECONDS)
    taken = {"idle": [time.process_time() - start], "waiting": []}
    for _ in range(max(1, int(3 * scale))):
        dist.barrier()
        if dist.get_rank() == 1:
            time.sleep(LATE_SECONDS)
        start = time.process_time()
        dist.all_reduce(tensor[:2])
        taken["waiting"].append(time.process_time() - start)
    return taken


PARTS = {"calls": calls, "overlap": overlap, "outstanding": outstanding, "idle": idle}


def rank_main(pipe: Connection, port: int, rank: int, world: int) -> None:
    """Runs a rank: answers each (part or backend, scale) with times, until it receives None."""
    torch.set_num_threads(1)
    assert fake_pg.__name__ in sys.modules
    assert fastgpu_comm.__name__ in sys.modules
    ignore_environment()  # fastgpu is compared with the real gloo
    store = dist.TCPStore("127.0.0.1", port, world, is_master=False)
    number = 0
    while (asked := pipe.recv()) is not None:
        what, scale = asked
        number += 1
        here = dist.PrefixStore(str(number), store)
        store.add(f"here {number}", 1)
        while store.add(f"here {number}", 0) < world:
            time.sleep(0.001)
        start = time.perf_counter()
        dist.init_process_group(
            what if what not in PARTS else "fastgpu",
            store=here,
            rank=rank,
            world_size=world,
            timeout=TIMEOUT,
        )
        initialised = time.perf_counter() - start
        if what in PARTS:
            answer = PARTS[what](scale)
        else:
            dist.all_reduce(torch.zeros(2))
            answer = {"init": [initialised], "first": [time.perf_counter() - start]}
        dist.barrier()
        dist.destroy_process_group()
        pipe.send(answer)


def ask(world: int, questions: Sequence[tuple[str, float]]) -> list[list[Seconds]]:
    """Starts `world` ranks; returns the answers of all ranks to each question."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([fake_pg.__name__, fastgpu_comm.__name__])
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = []
    for rank in range(world):
        mine, theirs = context.Pipe()
        process = context.Process(
            target=rank_main, args=(theirs, store.port, rank, world), daemon=True
        )
        process.start()
        theirs.close()
        ranks.append((process, mine))
    answers = []
    for question in questions:
        for _, pipe in ranks:
            pipe.send(question)
        answers.append([pipe.recv() for _, pipe in ranks])
    for process, pipe in ranks:
        pipe.send(None)
        process.join()
    return answers


def slowest(answers: Sequence[Seconds]) -> dict[str, float]:
    """Returns the medians over turns of the slowest rank's times."""
    return {
        name: statistics.median(map(max, *(answer[name] for answer in answers)))
        for name in answers[0]
    }


def report_calls(answers: Sequence[Seconds]) -> str:
    """Returns the table of small calls."""
    taken = {name: seconds * 1e6 for name, seconds in slowest(answers).items()}
    rows = []
    for size in CALL_BYTES:
        fake, fastgpu, gloo = (taken[f"{size} {name}"] for name in ("fake", "fastgpu", "gloo"))
        rows.append(
            [format_size(size), *(f"{us:.2f}" for us in (fake, fastgpu, fastgpu - fake, gloo))]
        )
    head = ("bytes", "fake", "fastgpu", "fastgpu - fake", "gloo")
    text = "Microseconds per call of `dist.all_reduce` (target: at most 3 above `fake`).\n\n"
    return text + markdown.table(head, rows)


def report_overlap(answers: Sequence[Seconds]) -> str:
    """Returns the table of overlap."""
    taken = slowest(answers)
    rows = []
    for who in dict.fromkeys(name.split(":")[0] for name in taken):
        alone, compute, both = (
            taken[f"{who}: {what}"] for what in ("communication", "computation", "both")
        )
        times = [f"{seconds * 1e3:.1f}" for seconds in (alone, compute, both)]
        ratios = [both / max(alone, compute), both / (alone + compute)]
        rows.append([who, *times, *(f"{ratio:.2f}" for ratio in ratios)])
    head = ("ranks that compute", "communication", "computation", "both", "/ larger", "/ sum")
    return (
        f"Milliseconds, {BUCKETS} buckets of {format_size(BUCKET_BYTES)} (target: at most 1.10 of"
        " the larger time if a core is free, else at most 1 of the sum).\n\n"
        + markdown.table(head, rows)
    )


def report_outstanding(answers: Sequence[Seconds]) -> str:
    """Returns the table of outstanding operations."""
    taken = slowest(answers)
    ratio = taken["asynchronous"] / taken["synchronous"]
    each = [f"{taken[name] / OUTSTANDING * 1e6:.2f}" for name in ("synchronous", "asynchronous")]
    return (
        f"Microseconds per all_reduce, {OUTSTANDING:,} of {format_size(OUTSTANDING_BYTES)}"
        " (target: a ratio of at most 1).\n\n"
        + markdown.table(
            ("synchronous", "all outstanding", "ratio"), [[*each, f"{ratio:.2f}"]], left=0
        )
    )


def report_idle(answers: Sequence[Seconds]) -> str:
    """Returns the sentence about processor time."""
    spent = max(answer["idle"][0] for answer in answers) * 1e3
    waited = statistics.median(answers[0]["waiting"]) * 1e3
    return (
        f"An unused communicator takes {spent:.2f} ms of processor time in {IDLE_SECONDS:g} s; a"
        f" rank that waits {LATE_SECONDS:g} s for another takes {waited:.2f} ms.\n"
    )


def report_setup(scale: float) -> str:
    """Measures set-up and returns its table."""
    rows = []
    for world, rounds in ((2, max(3, int(9 * scale))), (64, max(1, int(3 * scale)))):
        answers = ask(world, [("fastgpu", scale), ("gloo", scale)] * rounds)
        for backend, of_backend in (("fastgpu", answers[::2]), ("gloo", answers[1::2])):
            times = [
                f"{statistics.median(slowest(each)[what] for each in of_backend) * 1e3:.1f}"
                for what in ("init", "first")
            ]
            rows.append([f"{world} ranks, {backend}", *times])
    return (
        "Milliseconds of `init_process_group` on the slowest rank, once all ranks have reached the"
        " store (target: 100 with 2 ranks), and until the end of the first all_reduce.\n\n"
        + markdown.table(("", "init", "first all_reduce"), rows)
    )


REPORTS = {
    "calls": report_calls,
    "overlap": report_overlap,
    "outstanding": report_outstanding,
    "idle": report_idle,
}


def main() -> int:
    """Measures the requested parts and writes the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default="calls,overlap,outstanding,setup,idle")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the number of turns")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    written = ["# Through torch.distributed\n", "    python bench/torch_path.py\n"]
    written.append(markdown.machine_list())
    asked = [part for part in parts if part in PARTS]
    answers = dict(zip(asked, ask(2, [(part, arguments.scale) for part in asked]), strict=True))
    for part in parts:
        text = report_setup(arguments.scale) if part == "setup" else REPORTS[part](answers[part])
        written.append(f"## {part.capitalize()}\n\n{text}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("\n".join(written))
    print(arguments.out.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
