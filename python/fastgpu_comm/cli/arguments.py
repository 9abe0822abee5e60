"""Argument types and checks that several commands use."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterable
from pathlib import Path


def positive_int(text: str) -> int:
    """Reads a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def output_problems(files: Iterable[Path | None], picture: Path | None) -> list[str]:
    """Returns why the output of a command could not be written; empty if it could.

    Args:
        files: The files to write; None stands for a file that was not asked for.
        picture: The picture to draw with matplotlib, or None.
    """
    problems = [
        f"there is no folder {path.parent} for {path.name}"
        for path in files
        if path is not None and not path.parent.is_dir()
    ]
    if picture is not None:
        if importlib.util.find_spec("matplotlib") is None:
            problems.append("pictures need matplotlib: pip install 'fastgpu-comm[plot]'")
        else:
            from fastgpu_comm.bench.plot import why_not_drawn

            reason = why_not_drawn(picture)
            if reason is not None:
                problems.append(reason)
    return problems


def exit_with(command: str, problems: Iterable[str]) -> None:
    """Ends the process with one message per problem, if there is any."""
    lines = [f"fastgpu-comm {command}: {problem}" for problem in problems]
    if lines:
        raise SystemExit("\n".join(lines))
