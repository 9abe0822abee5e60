"""Ranks for the tests: real processes that stay, so that torch is imported once for many checks.

`Ranks.run(check, world)` calls the function `check` on every rank of a process group of that size
and returns the result of each. A check is a function of a module that the ranks can import. If it
raises, the test fails with the rank's own traceback. A rank that takes too long writes its stacks
to standard error and ends.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

# Imported once, before ranks are forked: each import takes seconds on a busy machine. assert_close
# imports torch.distributed.tensor.
PRELOADED = (
    "pytest",
    "torch",
    "torch.distributed",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.distributed.pipelining",
    "torch.distributed.tensor.parallel",
    "torch.profiler",
    "torch.testing",
    __name__,
)
# Both are for a busy machine. A check that hangs should meet the process group's time-out first.
RUN_SECONDS = 150.0
GROUP_SECONDS = 90.0
# From when a rank should have ended by itself until it is killed, stopped as it may be.
MARGIN_SECONDS = 30.0
HUNG = 1  # the exit status of a rank that has run for too long, which faulthandler sets


@dataclass(frozen=True)
class Setting:
    """A process group that checks run in."""

    world: int
    backend: str = "fastgpu"
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Rank:
    """A process, and the pipe to it."""

    process: BaseProcess
    pipe: Connection


class Ranks:
    """Processes that run checks, as many as were ever needed at once."""

    def __init__(self) -> None:
        """Prepares to fork processes from one that has imported torch; starts none yet."""
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOADED))
        self._ranks: list[Rank] = []
        self._stores = tempfile.TemporaryDirectory(prefix="fastgpu-test-")
        self._groups = 0
        self._setting: Setting | None = None

    def run(
        self,
        check: Callable[..., Any],
        setting: Setting,
        *args: Any,
        expect_killed: tuple[int, ...] = (),
        seconds: float = RUN_SECONDS,
    ) -> list[Any]:
        """Runs `check(*args)` on every rank; returns their results (None for a killed one)."""
        self._start(setting)
        ranks = self._ranks[: setting.world]
        for rank in ranks:
            rank.pipe.send((check, args, seconds))
        try:
            results = self._collect(ranks, expect_killed, seconds)
        except BaseException:
            self.kill()
            raise
        if expect_killed:
            self.kill()
        return results

    def end_group(self) -> None:
        """Destroys the process group on the ranks that have one, and leaves them running."""
        if self._setting is None:
            return
        ranks, self._setting = self._ranks[: self._setting.world], None
        for rank in ranks:
            rank.pipe.send((_destroy, (), RUN_SECONDS))
        self._collect(ranks, (), RUN_SECONDS)

    def kill(self) -> None:
        """Ends every process; the next run starts new ones."""
        for rank in self._ranks:
            rank.process.kill()
        for rank in self._ranks:
            rank.process.join()
            rank.pipe.close()
        self._ranks.clear()
        self._setting = None

    def _start(self, setting: Setting) -> None:
        if setting == self._setting:
            return
        self.end_group()
        while len(self._ranks) < setting.world:
            mine, theirs = self._context.Pipe()
            process = self._context.Process(target=serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._ranks.append(Rank(process, mine))
        ranks = self._ranks[: setting.world]
        store = os.path.join(self._stores.name, f"group {self._groups}")
        self._groups += 1
        for number, rank in enumerate(ranks):
            rank.pipe.send((_init, (setting, number, store), RUN_SECONDS))
        try:
            self._collect(ranks, (), RUN_SECONDS)
        except BaseException:
            self.kill()
            raise
        self._setting = setting

    def _collect(self, ranks: list[Rank], killed: tuple[int, ...], seconds: float) -> list[Any]:
        deadline = time.monotonic() + seconds + MARGIN_SECONDS
        results: list[Any] = []
        failures: list[str] = []
        for number, rank in enumerate(ranks):
            if not rank.pipe.poll(max(0.0, deadline - time.monotonic())):
                failures.append(f"rank {number} did not end within {seconds:.0f} s")
                continue
            try:
                error, result = rank.pipe.recv()
            except EOFError:
                rank.process.join()
                error, result = f"ended with status {rank.process.exitcode}", None
                if rank.process.exitcode == HUNG:
                    error = f"hung for {seconds:.0f} s; its stacks are on standard error"
                if number in killed:
                    error = None
            if error is not None:
                failures.append(f"rank {number}: {error}")
            results.append(result)
        assert not failures, "\n".join(failures)
        return results


def serve(pipe: Connection) -> None:
    """Runs a rank: takes calls from the pipe and answers each with (error, result)."""
    import torch

    torch.set_num_threads(1)
    with contextlib.suppress(EOFError):
        while True:
            check, args, seconds = pipe.recv()
            faulthandler.dump_traceback_later(seconds, exit=True, file=2)
            try:
                answer: tuple[str | None, Any] = (None, check(*args))
            except BaseException:
                answer = (traceback.format_exc(), None)
            faulthandler.cancel_dump_traceback_later()
            pipe.send(answer)


def _init(setting: Setting, rank: int, store_path: str) -> None:
    import torch.distributed as dist

    import fastgpu_comm  # noqa: F401  registers the backend

    for name in [name for name in os.environ if name.startswith(("FASTGPU_", "TORCH_DIST"))]:
        del os.environ[name]
    os.environ.update(setting.environment)
    dist.set_debug_level_from_env()
    dist.init_process_group(
        setting.backend,
        store=dist.FileStore(store_path, setting.world),
        rank=rank,
        world_size=setting.world,
        timeout=timedelta(seconds=GROUP_SECONDS),
    )


def _destroy() -> None:
    import torch.distributed as dist

    dist.barrier()
    dist.destroy_process_group()
