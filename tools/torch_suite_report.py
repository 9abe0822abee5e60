"""The results of torch's distributed tests (torch_suite.py), and their table in Markdown."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

TESTS = "torch.testing._internal.distributed.distributed_test"

# Tests that no backend outside torch can pass, and why. They do not fail the run.
CLOSED = {
    "test_ddp_logging_data_cpu": 'DDP logs the name of every backend outside torch as "custom"',
}

NEIGHBOURS = """
What the wheel has beside that module, in `torch/testing/_internal`:

| part | run | why |
| --- | --- | --- |
| `ddp_under_dist_autograd_test` | all that need no GPU | DDP and RPC together |
| `rpc/rpc_test` | the tests that make a process group | the others send by TensorPipe alone, \
which is no backend |
| `rpc/dist_autograd_test`, `rpc/dist_optimizer_test`, `rpc/faulty_agent_rpc_test`, `rpc/jit`, \
`rpc/examples`, `nn/api` | none | they make no process group |
| `fake_pg`, `multi_threaded_pg`, `distributed_utils` | none | backends and mocks in one process \
that take the place of the one under test |
| `common_fsdp`, `common_dist_composable`, `_tensor`, `_shard`, `checkpoint_utils`, \
`common_state_dict`, `rpc_utils` | none | models and bases of tests that the wheel lacks |
"""


@dataclass(frozen=True)
class Entry:
    """A test with a number of ranks."""

    suite: str  # the module that has the test, without the packages
    test: str
    ranks: int


@dataclass(frozen=True)
class Outcome:
    """The result of one test in one column."""

    verdict: str  # "passed", "failed" or "skipped"
    reason: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        """Returns the outcome as a cell of the table."""
        return self.verdict + (f": {self.reason}" if self.reason else "")


Outcomes = dict[Entry, dict[str, Outcome]]  # by test and column
Key = TypeVar("Key", bound=Hashable)


def report(outcomes: Outcomes, ddp: str | None, gates: Sequence[str]) -> str:
    """Returns the table in Markdown: totals, gates, then every test."""
    import torch

    command, about = "make torch-suite", ""
    if ddp:
        command, about = "make torch-suite DDP=ours", " of DistributedDataParallel"
    names = list(next(iter(outcomes.values())))
    lines = [
        f"# torch's own distributed tests{about}",
        "",
        f"`{command}` on torch {torch.__version__}, Python {platform.python_version()}: the tests",
        f"of `{TESTS}`" + ("." if ddp else " and its neighbours."),
        "Each test has a process group of its own.",
        "",
        *totals(outcomes, names, "class" if ddp else "backend"),
        *([] if ddp else NEIGHBOURS.splitlines()),
        "",
        "Gates in torch and its tests, which the runner opens for fastgpu:",
        "",
        *(f"- {gate}" for gate in gates),
    ]
    if ddp:
        lines += [
            "",
            "`ours, hooked` is our class with `codec=lambda *_: None`: our communication hook",
            "reduces all gradients, uncompressed. Tests that register a hook or mixed precision,",
            "or expect no hook, fail with it by design.",
        ]
    lines += ["", "Tests that no backend outside torch can pass:", ""]
    lines += [f"- {test}: {reason}" for test, reason in CLOSED.items()]
    lines += ["", "Tests that all skip, by reason:", "", *skipped(outcomes, names[0])]
    lines += ["", *table(outcomes, names)]
    return "\n".join(lines) + "\n"


def totals(outcomes: Outcomes, names: Sequence[str], what: str) -> list[str]:
    """Returns a table of the verdicts of every suite, number of ranks and column."""
    lines = [
        f"| tests | ranks | {what} | passed | failed | skipped |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]
    by_suite = grouped(((entry.suite, entry.ranks), row) for entry, row in outcomes.items())
    for (suite, ranks), rows in by_suite.items():
        for name in names:
            verdicts = [row[name].verdict for row in rows]
            counts = " | ".join(str(verdicts.count(v)) for v in ("passed", "failed", "skipped"))
            lines.append(f"| {suite} | {ranks} | {name} | {counts} |")
    return lines


def skipped(outcomes: Outcomes, first: str) -> list[str]:
    """Returns a table of the reasons for which tests ran nowhere."""
    reasons = grouped(
        ((row[first].reason, entry.suite, entry.ranks), entry)
        for entry, row in outcomes.items()
        if all_skip(row)
    )
    rows = [(-len(entries), suite, ranks, why) for (why, suite, ranks), entries in reasons.items()]
    lines = ["| tests | of | ranks | reason |", "| ---: | --- | ---: | --- |"] if rows else ["none"]
    alike = grouped(((count, suite, why), str(ranks)) for count, suite, ranks, why in sorted(rows))
    for (count, suite, why), ranks in alike.items():
        lines.append(f"| {-count} | {suite} | {', '.join(ranks)} | {why} |")
    return lines


def table(outcomes: Outcomes, names: Sequence[str]) -> list[str]:
    """Returns a table of the tests that ran. Equal outcomes share one row."""
    lines = [f"| test | ranks | {' | '.join(names)} |", "| --- | ---: |" + " --- |" * len(names)]
    rows = grouped(
        ((entry.suite, entry.test, tuple(map(str, row.values()))), str(entry.ranks))
        for entry, row in outcomes.items()
        if not all_skip(row)
    )
    for suite, test, cells in sorted(rows):
        ranks = ", ".join(rows[suite, test, cells])
        lines.append(f"| {test} | {ranks} | {' | '.join(cells)} |")
    return lines


def all_skip(row: dict[str, Outcome]) -> bool:
    """Tells whether the test ran nowhere."""
    return all(outcome.verdict == "skipped" for outcome in row.values())


Item = TypeVar("Item")


def grouped(pairs: Iterable[tuple[Key, Item]]) -> dict[Key, list[Item]]:
    """Returns the items of each key, in the order in which they come."""
    groups = defaultdict(list)
    for key, item in pairs:
        groups[key].append(item)
    return dict(groups)
