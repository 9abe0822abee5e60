"""The text of a benchmark's table: the measures of nccl-tests, with p99 and the backends' ratio.

Each kind of call has a section. The heading has the values that all lines share, and columns that a
section does not need are left out, so that a line fits 100 columns.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from fastgpu_comm.bench import machine
from fastgpu_comm.bench.results import Results, Row, ratio
from fastgpu_comm.collectives import COLLECTIVES

WIDTH = 100
PLACES = {"out": "out-of-place", "in": "in-place"}

# The name of a column, its unit and its width.
Column = tuple[str, str, int]
SIZE: tuple[Column, ...] = (("size", "(B)", 12), ("count", "(elements)", 12))
PLACE: Column = ("place", "", 13)
TIMES: tuple[Column, ...] = (("time", "(us)", 10), ("p99", "(us)", 10))
SPEEDS: tuple[Column, ...] = (("algbw", "(GB/s)", 9), ("busbw", "(GB/s)", 9))
WRONG: Column = ("#wrong", "", 7)
RATIO: Column = ("ratio", "", 7)


def header(results: Results) -> str:
    """Returns the lines above the table."""
    first = results.backends[0]
    about = f"{results.world_size} ranks, " + ", ".join(results.machine.values())
    lines = [f"# {results.command}"]
    lines += textwrap.wrap(about, WIDTH, initial_indent="# ", subsequent_indent="#   ")
    lines.append("# a call takes as long as its slowest rank; time is the median over the calls")
    if len(results.backends) > 1:
        lines.append(f"# ratio: the backend's time over that of {first}; the backends took turns")
    if crowded := machine.crowding():
        lines.append(f"# {crowded}")
    return "\n".join(lines)


def section(row: Row, backends: Sequence[str]) -> str:
    """Returns the lines above the rows of the same collective, dtype, reduction and root."""
    parts = [row.collective]
    if row.redop != "none":
        parts.append(row.redop)
    if COLLECTIVES[row.collective].has_data:
        parts.append(row.dtype)
    if row.root >= 0:
        parts.append(f"root {row.root}")
    columns = _columns(row.collective, backends)
    names = "# " + _cells([name for name, _, _ in columns], columns, backends)[2:]
    units = "# " + _cells([unit for _, unit, _ in columns], columns, backends)[2:]
    return "\n".join(["#", f"# {', '.join(parts)}", names, units.rstrip()])


def line(row: Row, call: Sequence[Row], backends: Sequence[str]) -> str:
    """Returns the line of a row; `call` has the rows of all backends for the same call."""
    if row.timing is None:
        size = f" at {row.size_bytes} bytes" if row.size_bytes else ""
        return f"# {row.backend} failed{size}, {PLACES[row.placement]}: {row.error}"
    over_first = ratio(row, call)
    values = {
        "backend": row.backend,
        "size": str(row.size_bytes),
        "count": str(row.count),
        "place": PLACES[row.placement],
        "time": _time(row.timing.p50_us),
        "p99": _time(row.timing.p99_us),
        "algbw": f"{row.algbw_gb_s:.2f}",
        "busbw": f"{row.busbw_gb_s:.2f}",
        "#wrong": str(row.wrong),
        "ratio": f"{over_first:.2f}" if over_first else "",
    }
    columns = _columns(row.collective, backends)
    return _cells([values[name] for name, _, _ in columns], columns, backends).rstrip()


def footer(results: Results) -> str:
    """Returns the lines below the table, as nccl-tests ends."""
    verdict = "OK" if results.wrong == 0 else "FAILED"
    lines = ["#", f"# Out of bounds values : {results.wrong} {verdict}"]
    for backend in results.backends:
        average = results.average_busbw(backend)
        lines.append(f"# Avg bus bandwidth    : {average:.4g} GB/s ({backend})")
    return "\n".join(lines)


def _columns(name: str, backends: Sequence[str]) -> list[Column]:
    collective = COLLECTIVES[name]
    columns: list[Column] = [("backend", "", 0)]
    columns += SIZE if collective.has_data else ()
    columns += [PLACE] if len(collective.placements) > 1 else []
    columns += TIMES
    columns += (*SPEEDS, WRONG) if collective.has_data else ()
    return columns + ([RATIO] if len(backends) > 1 else [])


def _cells(texts: Sequence[str], columns: Sequence[Column], backends: Sequence[str]) -> str:
    """Returns a line; the first column is as wide as the longest name of a backend."""
    first = max(len(name) for name in ("backend", *backends))
    rest = zip(texts[1:], columns[1:], strict=True)
    return f"  {texts[0]:<{first}}" + "".join(f"{text:>{width}}" for text, (_, _, width) in rest)


def _time(time_us: float) -> str:
    return f"{time_us:.2f}" if time_us < 1000 else f"{time_us:.0f}"
