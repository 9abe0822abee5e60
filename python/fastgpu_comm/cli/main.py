"""Reads the arguments of `fastgpu-comm` and runs the command they name.

Each command is a module with `add_parser(subparsers)`, which adds the command's parser and sets its
default `run`: a function from the parsed arguments to an exit status. `run` finds the unparsed
arguments in `arguments.argv`. Modules import torch and matplotlib inside `run`, so that
`fastgpu-comm --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import fastgpu_comm
from fastgpu_comm import names
from fastgpu_comm.cli import bench, env, simulate, train
from fastgpu_comm.cli.arguments import INTERRUPTED, Parser

COMMANDS = (bench, env, simulate, train)

DESCRIPTION = (
    "Measures, tries out and simulates fastgpu, a torch.distributed backend for CPU tensors. "
    "`fastgpu-comm COMMAND --help` lists the arguments of a command."
)


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """Returns the parser of `fastgpu-comm`, and the parser of each command in it."""
    parser = Parser(prog="fastgpu-comm", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=fastgpu_comm.__version__)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser, dict(subparsers.choices)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that `argv` names.

    Args:
        argv: The arguments; by default those of this process.

    Returns:
        The exit status, 0 on success.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser, commands = build_parser()
    if argv and argv[0] in commands:
        commands[argv[0]].refuse_unknown_flags(argv[1:])
    elif argv and not argv[0].startswith("-"):
        parser.error(names.unknown("command", argv[0], commands))
    arguments = parser.parse_args(argv)
    arguments.argv = argv
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"fastgpu-comm {argv[0]}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"fastgpu-comm {argv[0]}: {error}", file=sys.stderr)
        return 1
    return status
