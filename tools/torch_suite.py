"""Runs the distributed tests that torch's own wheel ships on `fastgpu` beside gloo.

The tests are those of torch.testing._internal.distributed.distributed_test, with every number of
ranks that `--world` names, and the tests of RPC that make a process group (torch_suite_rpc.py).
Each runs in new processes, in a process group of its own, with a time limit. The command prints a
table of the tests that passed, failed and were skipped, and fails if fastgpu fails a test that gloo
passes.

With `--ddp ours` the tests are those of DistributedDataParallel, and fastgpu_comm's class is
compared with torch's, both on fastgpu. They then run on the CPU also where they ask for GPUs
(torch_suite_cpu.py).

torch's tests and torch itself ask for gloo by name in a few places. GATES lists them all, and how
this program opens them, for fastgpu alone.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import inspect
import os
import sys
import time
import unittest
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import torch_suite_report
import torch_suite_rpc
from torch_suite_report import CLOSED, TESTS, Entry, Outcome, Outcomes

LOGS = Path("build/torch_suite")
# Backends by whose name the tests' decorators choose what to run: the tests that are not for gloo
# are taken as for mpi, which has no build here.
CHOSEN_AS = ("gloo", "mpi")

GATES = (
    "`distributed_test.BACKEND`: its decorators choose the tests for gloo, else for mpi; then "
    "it is set to the backend under test, under a name that is equal to gloo, which tests compare",
    "`torch.distributed.monitored_barrier`, up to torch 2.13: accepts only groups whose backend is "
    "called gloo; for others the group's own `monitored_barrier` is called",
)


class EqualToGloo(str):
    """The name of a backend that tests treat like gloo, since they compare it with "gloo"."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        """Tells whether `other` is this name or gloo."""
        return other == "gloo" or str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        """Tells whether `other` is neither this name nor gloo."""
        return not self == other


@dataclass(frozen=True)
class Column:
    """What the tests run on. The first column is the referee of the others."""

    name: str
    backend: str
    ddp: type | None = None  # in the place of torch's DistributedDataParallel

    @property
    def logs(self) -> Path:
        """The folder of the tests' output."""
        return LOGS / self.name.replace(" ", "_").replace("'", "")


@dataclass(frozen=True)
class Run:
    """How to run an entry."""

    case: type[unittest.TestCase]
    method: str
    select: Callable[[Column], None]  # makes the tests use what the column says


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--world",
        type=int,
        nargs="+",
        default=[3],
        help="ranks of the process groups; several numbers run the tests once with each",
    )
    parser.add_argument("--seconds", type=int, default=60, help="time limit of each test")
    parser.add_argument("--only", default="", help="run the tests whose names contain this")
    parser.add_argument("--report", type=Path, help="write the table to this file, in Markdown")
    parser.add_argument(
        "--ddp", choices=["ours"], help="compare our DistributedDataParallel with torch's"
    )
    return parser.parse_args(arguments)


def columns(ddp: str | None) -> list[Column]:
    """Returns what to compare."""
    if ddp is None:
        return [Column("gloo", "gloo"), Column("fastgpu", "fastgpu")]
    import torch_suite_cpu

    return [Column(name, "fastgpu", kind) for name, kind in torch_suite_cpu.CLASSES.items()]


def open_monitored_barrier() -> None:
    """Lets torch.distributed.monitored_barrier accept a group of another backend than gloo."""
    import torch.distributed as dist

    def monitored_barrier(
        group: Any = None, timeout: timedelta | None = None, wait_all_ranks: bool = False
    ) -> None:
        if dist.get_backend(group) == "gloo":
            gloo_only(group, timeout, wait_all_ranks)
            return
        group = group or dist.group.WORLD
        group.monitored_barrier(timeout or timedelta(0), wait_all_ranks)

    gloo_only: Callable[..., None] = dist.monitored_barrier
    dist.monitored_barrier = monitored_barrier


def load(chosen_as: str) -> ModuleType:
    """Imports torch's tests anew, with the decorators of one backend."""
    os.environ["BACKEND"] = chosen_as
    os.environ.pop("INIT_METHOD", None)  # of the last test, whose folder is gone
    spec = importlib.util.find_spec(TESTS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[TESTS] = module
    spec.loader.exec_module(module)
    return module


def case_of(module: ModuleType) -> type[unittest.TestCase]:
    """Returns the tests of a module as a class whose ranks are forked from this process."""
    bases: Any = (module.TestDistBackend, module.DistributedTest._DistTestBase)

    class Case(*bases):  # type: ignore[misc]  # mypy knows no base that is a variable
        def setUp(self) -> None:
            super().setUp()
            sys.modules[TESTS] = module  # where the ranks look up the classes that they pickle
            self._fork_processes()

        def _fork_processes(self) -> None:
            import torch.multiprocessing

            self._start_processes(torch.multiprocessing.get_context("fork").Process)

    return Case


def choose_cases(modules: Sequence[ModuleType]) -> dict[str, type[unittest.TestCase]]:
    """Returns, for each test, the class of the first module whose decorators let it run."""
    cases = [case_of(module) for module in modules]
    names = unittest.TestLoader().getTestCaseNames(cases[0])
    chosen = {}
    for name in names:
        runs = [case for case in cases if not _skipped_by_decorator(case, name)]
        chosen[name] = (runs or cases)[0]
    return chosen


def _skipped_by_decorator(case: type[unittest.TestCase], name: str) -> bool:
    return bool(getattr(getattr(case, name), "__unittest_skip__", False))


def is_about_ddp(case: type[unittest.TestCase], name: str) -> bool:
    """Tells whether a test uses DistributedDataParallel."""
    source = inspect.getsource(getattr(case, name)).lower()
    return "ddp" in source or "distributeddataparallel" in source


def select_in(modules: Sequence[ModuleType], column: Column) -> None:
    """Makes the tests of distributed_test use a column's backend and class."""
    import torch.nn.parallel

    for module in modules:
        module.BACKEND = EqualToGloo(column.backend)  # type: ignore[attr-defined]
        if column.ddp is not None:
            module.DistributedDataParallel = column.ddp  # type: ignore[attr-defined]
    if column.ddp is not None:
        torch.nn.parallel.DistributedDataParallel = column.ddp  # type: ignore[misc, assignment]


def runs(worlds: Sequence[int], ddp: bool) -> Iterator[tuple[Entry, Run]]:
    """Yields every test; sets the variable that tells distributed_test the number of ranks."""
    for world in worlds:
        os.environ["WORLD_SIZE"] = str(world)
        modules = [load(backend) for backend in CHOSEN_AS]
        for name, case in choose_cases(modules).items():
            if not ddp or is_about_ddp(case, name):
                run = Run(case, name, functools.partial(select_in, modules))
                yield Entry("distributed_test", name, world), run
    if not ddp:
        for case, method in torch_suite_rpc.chosen():
            run = Run(case, method, lambda column: torch_suite_rpc.select(column.backend))
            name = f"{case.__name__}.{method}"
            suite = case.__bases__[0].__module__.rpartition(".")[2]
            yield Entry(suite, name, torch_suite_rpc.ranks_of(case)), run


def run_test(case: type[unittest.TestCase], name: str, log: Path) -> Outcome:
    """Runs one test; its output goes to the file `log`."""
    result = unittest.TestResult()
    started = time.monotonic()
    with _output_to(log):
        case.setUpClass()
        case(name).run(result)
    seconds = time.monotonic() - started
    if result.skipped:
        return Outcome("skipped", result.skipped[0][1], seconds)
    failed = result.errors + result.failures
    if failed:
        log.write_text(log.read_text(errors="replace") + "\n" + failed[0][1])
        return Outcome("failed", last_line(failed[0][1]), seconds)
    return Outcome("passed", "", seconds)


def run_on_all(run: Run, log: str, compared: Sequence[Column]) -> dict[str, Outcome]:
    """Runs one test in each column. A test that the first one skips is skipped in all."""
    row: dict[str, Outcome] = {}
    for column in compared:
        run.select(column)
        outcome = row[column.name] = run_test(run.case, run.method, column.logs / f"{log}.log")
        if outcome.verdict == "skipped":
            return dict.fromkeys((each.name for each in compared), outcome)
    return row


def last_line(traceback: str) -> str:
    """Returns the line of a traceback that says what happened, shortened."""
    lines = [line.strip() for line in traceback.splitlines()]
    said = [line for line in lines if "Error" in line or "timed out" in line]
    return (said or lines or [""])[-1].replace("|", "/")[:160]


@contextlib.contextmanager
def _output_to(log: Path) -> Iterator[None]:
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in zip((1, 2), kept, strict=True):
                os.dup2(descriptor, number)
                os.close(descriptor)


def regressions(outcomes: Outcomes, refused: Sequence[str]) -> list[str]:
    """Returns the tests that the first column passes and another one does not.

    Args:
        outcomes: By test and column.
        refused: Reasons that excuse a failure.
    """
    worse = []
    for entry, row in outcomes.items():
        first, *others = row.items()
        for column, outcome in others:
            excused = entry.test in CLOSED or any(text in outcome.reason for text in refused)
            if first[1].verdict == "passed" != outcome.verdict and not excused:
                worse.append(f"{entry.test} with {entry.ranks} ranks ({column})")
    return worse


def main() -> int:
    """Runs the tests in every column, one test after another."""
    arguments = parse(sys.argv[1:])
    os.environ["DISTRIBUTED_TESTS_DEFAULT_TIMEOUT"] = str(arguments.seconds)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    compared, gates, refused = columns(arguments.ddp), list(GATES), list[str]()
    left_out: dict[str, str] = {}
    if arguments.ddp:
        import torch_suite_cpu

        torch_suite_cpu.open_gates()
        gates += torch_suite_cpu.GATES
        refused += torch_suite_cpu.REFUSED
        left_out = torch_suite_cpu.TOO_SLOW
    else:
        gates += torch_suite_rpc.GATES
    open_monitored_barrier()
    outcomes: Outcomes = {}
    for entry, run in runs(arguments.world, bool(arguments.ddp)):
        if arguments.only not in entry.test:
            continue
        if entry.test in left_out:
            skipped = Outcome("skipped", left_out[entry.test])
            outcomes[entry] = dict.fromkeys((column.name for column in compared), skipped)
            continue
        row = outcomes[entry] = run_on_all(run, f"{entry.test}-{entry.ranks}", compared)
        said = ", ".join(f"{column} {row[column]}" for column in row)
        print(f"{entry.test}, {entry.ranks} ranks: {said}", flush=True)
    text = torch_suite_report.report(outcomes, arguments.ddp, gates)
    if arguments.report:
        arguments.report.write_text(text)
    print(text)
    worse = regressions(outcomes, refused)
    if worse:
        print(f"do not pass what {compared[0].name} passes: {', '.join(worse)}", file=sys.stderr)
        print(f"the output of each test is in {LOGS}/COLUMN/TEST.log", file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
