"""Runs Python programs in forked processes, which have imported torch: an import takes seconds.

A program ends as a process of multiprocessing does: without the functions that atexit has. Tests of
how a program begins or ends start a Python of their own.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.process.ranks import PRELOADED


@dataclass(frozen=True)
class Ended:
    """How a program ended, and what it wrote."""

    status: int
    stdout: str
    stderr: str


def run_programs(
    programs: Sequence[Sequence[str]], environment: Mapping[str, str], seconds: float
) -> list[Ended]:
    """Runs programs side by side, each given as its text and its arguments.

    Args:
        programs: The programs.
        environment: Variables beside those of this process. Those of fastgpu are not inherited.
        seconds: How long all of them may take.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FASTGPU_")}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    with tempfile.TemporaryDirectory(prefix="fastgpu-test-") as folder:
        outputs = [Path(folder, f"output.{number}") for number in range(len(programs))]
        processes = [
            context.Process(
                target=_run, args=(list(program), {**kept, **environment}, str(output)), daemon=True
            )
            for program, output in zip(programs, outputs, strict=True)
        ]
        try:
            for process in processes:
                process.start()
            deadline = time.monotonic() + seconds
            statuses = []
            for process in processes:
                process.join(max(0.0, deadline - time.monotonic()))
                assert process.exitcode is not None, f"a program ran for {seconds:.0f} s"
                statuses.append(process.exitcode)
        finally:
            for process in processes:
                process.kill()
                process.join()
        return [
            Ended(status, output.read_text(), Path(f"{output}.error").read_text())
            for status, output in zip(statuses, outputs, strict=True)
        ]


def _run(program: list[str], environment: Mapping[str, str], output: str) -> None:
    """Runs a program in this process."""
    for descriptor, path in ((1, output), (2, f"{output}.error")):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    text, *arguments = program
    sys.argv = ["-c", *arguments]
    exec(compile(text, "<program>", "exec"), {"__name__": "__main__"})
