"""Reads the arguments of `fastgpu-comm` and runs the command they name.

Each command is a module with `add_parser(subparsers)`, which adds the command's parser and sets its
default `run`: a function from the parsed arguments to an exit status. `run` finds the unparsed
arguments in `arguments.argv`. Modules import torch and matplotlib inside `run`, so that
`fastgpu-comm --help` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import fastgpu_comm
from fastgpu_comm.cli import bench, simulate, train

COMMANDS = (bench, simulate, train)

DESCRIPTION = (
    "Measures, tries out and simulates fastgpu, a torch.distributed backend for CPU tensors. "
    "`fastgpu-comm COMMAND --help` lists the arguments of a command."
)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of `fastgpu-comm` with every command in it."""
    parser = argparse.ArgumentParser(prog="fastgpu-comm", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=fastgpu_comm.__version__)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that `argv` names.

    Args:
        argv: The arguments; by default those of this process.

    Returns:
        The exit status, 0 on success.
    """
    arguments = build_parser().parse_args(argv)
    arguments.argv = list(sys.argv[1:] if argv is None else argv)
    status: int = arguments.run(arguments)
    return status
