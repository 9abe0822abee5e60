"""The lines of a benchmark's table: the columns of nccl-tests, then backend, p99 and ratio."""

from __future__ import annotations

from collections.abc import Sequence

from fastgpu_comm.bench.results import Results, Row, ratio

KEY = "{:>12} {:>12} {:>14} {:>7} {:>5}"
HALF = " {:>9} {:>7} {:>7} {:>6}"
TAIL = " {:>10} {:>9} {:>9} {:>6} {:>6}"
FORMAT = KEY + HALF + HALF + TAIL
ABSENT = ("N/A",) * 4
BOTH = ("out", "in")
PLACES = ("out-of-place", "in-place")


def header(results: Results) -> str:
    """Returns the lines above the table."""
    first = results.backends[0]
    lines = [
        f"# {results.command}",
        f"# {results.world_size} ranks, " + ", ".join(results.machine.values()),
        "# a call takes as long as its slowest rank; time is the median over the calls",
    ]
    if len(results.backends) > 1:
        lines.append(f"# ratio: the backend's time over that of {first}; the backends took turns")
    half = ("time", "algbw", "busbw", "#wrong")
    units = ("(us)", "(GB/s)", "(GB/s)", "")
    key = ("size", "count", "type", "redop", "root")
    widths = [len(part.format(*[""] * part.count("{"))) for part in (KEY, HALF)]
    places = " " * widths[0] + "".join(f"{place:^{widths[1]}}" for place in PLACES)
    names = FORMAT.format(*key, *half, *half, "backend", "p99", "p99", "ratio", "ratio")
    under = FORMAT.format("(B)", "(elements)", *[""] * 3, *units, *units, "", *BOTH, *BOTH)
    table_head = [f"#{text[1:].rstrip()}" for text in (places, names, under)]
    return "\n".join([*lines, "#", *table_head])


def line(rows: Sequence[Row], all_rows: Sequence[Row]) -> str:
    """Returns the line of one backend's call; `rows` has a row per placement."""
    by_placement = {row.placement: row for row in rows}
    first = rows[0]
    halves: list[str] = []
    for placement in BOTH:
        halves += _half(by_placement.get(placement))
    tails = [_p99(by_placement.get(placement)) for placement in BOTH]
    tails += [_ratio(by_placement.get(placement), all_rows) for placement in BOTH]
    text = FORMAT.format(
        first.size_bytes,
        first.count,
        first.dtype,
        first.redop,
        first.root,
        *halves,
        first.backend,
        *tails,
    )
    failed = [row for row in rows if row.error]
    return text.rstrip() + "".join(f"\n#   {row.backend} failed: {row.error}" for row in failed[:1])


def footer(results: Results) -> str:
    """Returns the lines below the table, as nccl-tests ends."""
    verdict = "OK" if results.wrong == 0 else "FAILED"
    lines = [f"# Out of bounds values : {results.wrong} {verdict}"]
    for backend in results.backends:
        average = results.average_busbw(backend)
        lines.append(f"# Avg bus bandwidth    : {average:.4g} GB/s ({backend})")
    return "\n".join(lines)


def _half(row: Row | None) -> Sequence[str]:
    if row is None or row.timing is None:
        return ABSENT
    speeds = (f"{row.algbw_gb_s:.2f}", f"{row.busbw_gb_s:.2f}")
    return (_time(row.timing.p50_us), *speeds, str(row.wrong))


def _p99(row: Row | None) -> str:
    return _time(row.timing.p99_us) if row and row.timing else "N/A"


def _ratio(row: Row | None, all_rows: Sequence[Row]) -> str:
    value = ratio(row, all_rows) if row else None
    return f"{value:.2f}" if value else ""


def _time(time_us: float) -> str:
    return f"{time_us:.2f}" if time_us < 1000 else f"{time_us:.0f}"
