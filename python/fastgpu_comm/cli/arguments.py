"""The parser, argument types and checks that all commands use."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import math
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from fastgpu_comm import names
from fastgpu_comm.bench.sizes import parse_size

MAX_COUNT = 2**31 - 1
MAX_SECONDS = 1e6  # 11 days, which every backend can count in its units
BAD_ARGUMENTS = 2  # exit status
INTERRUPTED = 130  # exit status after Ctrl-C: 128 + SIGINT, as shells report it


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with the message."""
        self.exit(BAD_ARGUMENTS, f"{self.prog}: {message} (`{self.prog} --help` explains)\n")

    def refuse_unknown_flags(self, argv: Sequence[str]) -> None:
        """Ends the process if `argv` has a flag that this parser lacks.

        argparse would take the flag's value for another argument and complain about that.
        """
        known = [flag for action in self._actions for flag in action.option_strings]
        for argument in argv:
            flag = argument.partition("=")[0]
            if re.match("--.", flag):
                found = any(each.startswith(flag) for each in known)
            else:
                found = not re.match("-[A-Za-z]", flag) or flag[:2] in known
            if not found:
                self.error(names.unknown("flag", flag, known))


def count(least: int = 1, most: int = MAX_COUNT) -> Callable[[str], int]:
    """Returns a reader of whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        digits = text.isascii() and text.isdecimal() and len(text) < 20
        if not (digits and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number from {least} to {most}"
            )
        return int(text)

    return parse


def number(
    above: float = -math.inf, least: float = -math.inf, most: float = math.inf
) -> Callable[[str], float]:
    """Returns a reader of finite numbers above `above`, at least `least` and at most `most`."""
    allowed = f"above {above:g}" if above > -math.inf else f"of at least {least:g}"
    if most < math.inf:
        allowed += f" and at most {most:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (value > above and least <= value <= most and math.isfinite(value)):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {allowed}")
        return value

    return parse


seconds = number(least=1, most=MAX_SECONDS)


def size(text: str) -> int:
    """Reads a size of at least 1 byte."""
    size_bytes = parse_size(text)
    if size_bytes < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size of at least 1 byte")
    return size_bytes


def name_of(kind: str, known: Collection[str]) -> Callable[[str], str]:
    """Returns a reader of one of the names `known`; case, `-` and `_` do not matter."""

    def parse(text: str) -> str:
        found = names.find(text.strip(), known)
        if found is None:
            raise argparse.ArgumentTypeError(names.unknown(kind, text, known))
        return found

    return parse


def list_of(kind: str, parse: Callable[[str], str] = str.strip) -> Callable[[str], list[str]]:
    """Returns a reader of a comma list of different names, each read by `parse`."""

    def parse_list(text: str) -> list[str]:
        found = [parse(part) for part in text.split(",")]
        if not all(found) or len(set(found)) < len(found):
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a list of different {kind}s, such as a,b"
            )
        return found

    return parse_list


def output_problems(files: Iterable[Path | None], picture: Path | None) -> list[str]:
    """Returns why the output of a command could not be written; empty if it could.

    Args:
        files: The files to write; None stands for a file that was not asked for.
        picture: The picture to draw with matplotlib, or None.
    """
    problems = [reason for path in files if path is not None and (reason := _why_not_written(path))]
    if picture is not None:
        if importlib.util.find_spec("matplotlib") is None:
            problems.append("pictures need matplotlib: pip install matplotlib")
        else:
            from fastgpu_comm.bench.plot import why_not_drawn

            reason = why_not_drawn(picture)
            if reason is not None:
                problems.append(reason)
    return problems


def _why_not_written(path: Path) -> str | None:
    """Tries to open a file for writing, without changing what is there."""
    existed = path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        return f"cannot write {path}: {error.strerror}. Name a file in a folder that you may write"
    if not existed:
        path.unlink()
    return None


def folder_problems(folder: Path | None) -> list[str]:
    """Creates a folder for output; returns why nothing can be written there."""
    if folder is None:
        return []
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return [f"cannot make the folder {folder}: {error.strerror}. Name another folder"]
    reason = _why_not_written(folder / ".fastgpu-comm")
    return [reason] if reason else []


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Adds the path to an error of writing it, such as a full disk."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def exit_with(command: str, problems: Iterable[str]) -> None:
    """Ends the process with one line per problem, if there is any."""
    lines = [f"fastgpu-comm {command}: {problem}" for problem in problems]
    if lines:
        print("\n".join(lines), file=sys.stderr)
        raise SystemExit(BAD_ARGUMENTS)


def add_output(parser: argparse.ArgumentParser, plot: str) -> Any:
    """Adds the flags --json and --plot; `plot` says what the picture shows. Returns their group."""
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="FILE", help="write every number as JSON")
    output.add_argument(
        "--plot", type=Path, metavar="FILE", help=f"draw {plot}; the suffix says how: .png, .svg"
    )
    return output
