"""Finds the commands, reads the arguments and runs the command they name.

A command is a module beside this one with `add_parser(subparsers)`, which adds its arguments and
sets `run`: a function from the parsed arguments to an exit status; `argv` among them is the list
that they were parsed from. Modules import what is heavy
(torch, matplotlib) inside `run`, so that `fastgpu-comm --help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence

import fastgpu_comm
from fastgpu_comm import cli

DESCRIPTION = (
    "Measures, tries out and simulates fastgpu, a torch.distributed backend for CPU tensors. "
    "`fastgpu-comm COMMAND --help` tells what a command takes."
)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of `fastgpu-comm` with every command in it."""
    parser = argparse.ArgumentParser(prog="fastgpu-comm", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=fastgpu_comm.__version__)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in command_names():
        importlib.import_module(f"{cli.__name__}.{name}").add_parser(subparsers)
    return parser


def command_names() -> list[str]:
    """Returns the names of the commands, in alphabetical order."""
    return sorted(
        module.name for module in pkgutil.iter_modules(cli.__path__) if module.name != "main"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that `argv` (by default the process's arguments) names.

    Returns:
        The exit status: 0 when all went well.
    """
    arguments = build_parser().parse_args(argv)
    arguments.argv = list(sys.argv[1:] if argv is None else argv)
    status: int = arguments.run(arguments)
    return status
