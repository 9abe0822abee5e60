"""The lines of the GPU check, and its report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

# Fields behind the kind: tests/gpu/lines.h.
FIELDS = {"ok": 2, "FAIL": 2, "skip": 2, "rate": 5, "end": 1}


class Line(NamedTuple):
    """A check or a figure."""

    kind: str
    fields: tuple[str, ...]


class Machine(NamedTuple):
    """Where and how the check ran."""

    driver: str
    compiler: str
    date: str
    command: str
    commit: str


@dataclass
class Result:
    """What a step of the check found."""

    title: str
    lines: list[Line]
    seconds: float = field(default=0.0)


def parse(text: str) -> Line | None:
    """Returns a line of the program, or None for other text."""
    kind, *fields = text.rstrip("\n").split("\t")
    return Line(kind, tuple(fields)) if FIELDS.get(kind) == len(fields) else None


def shown(line: Line) -> str:
    """Returns a line as the terminal shows it."""
    if line.kind != "rate":
        return f"{line.kind:4} {line.fields[0]}: {line.fields[1]}"
    what, figure, share, target, verdict = line.fields
    text = f"rate {what}: {figure}"
    text += f", {share} of the copy" if share else ""
    return text + (f"; target {target}: {verdict}" if target else "")


def row(*cells: str) -> str:
    """Returns a row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def checks(results: Sequence[Result]) -> Iterator[str]:
    """Yields the table of the checks."""
    yield from ("## Checks", "", row("step", "check", "result", "detail"), row(*["---"] * 4))
    for result in results:
        for line in result.lines:
            if line.kind != "rate":
                verdict = {"ok": "passed", "FAIL": "**failed**", "skip": "did not run"}[line.kind]
                yield row(result.title, line.fields[0], verdict, line.fields[1])
    yield ""


def rates(results: Sequence[Result]) -> Iterator[str]:
    """Yields the table of the figures."""
    found = [line.fields for result in results for line in result.lines if line.kind == "rate"]
    yield from ("## Rates", "")
    if not found:
        yield from ("None was measured.", "")
        return
    yield "Medians of interleaved repetitions. A share compares with the copy above it."
    yield from ("", row("what", "figure", "share of the copy", "target", "target is"))
    yield row(*["---"] * 5)
    for fields in found:
        yield row(*fields)
    yield ""


def render(machine: Machine, results: Sequence[Result], waiting: Sequence[str]) -> str:
    """Returns the report in Markdown; `waiting` are the steps that have not run."""
    text = ["# Device code on a GPU", "", "Written by `make gpu-check`.", ""]
    described = [line.fields for line in (results[0].lines if results else []) if line.kind == "ok"]
    seconds = sum(result.seconds for result in results)
    text += [row("", ""), row("---", "---"), *(row(*fields) for fields in described)]
    text += [row("driver", machine.driver), row("compiler", machine.compiler)]
    text += [row("date", machine.date), row("commit", machine.commit)]
    text += [row("command", f"`{machine.command}`")]
    text += [row("time", f"{seconds:.0f} s after the build"), ""]
    text += [*checks(results[1:]), *rates(results)]
    if waiting:
        text += ["## Did not run", "", *(f"- {title}" for title in waiting), ""]
    return "\n".join(text)
