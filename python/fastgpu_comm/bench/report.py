"""Writes a benchmark as a page: the machine, the command, a table per collective, a chart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fastgpu_comm.bench import markdown, plot
from fastgpu_comm.bench.results import Results, Row, ratio
from fastgpu_comm.bench.sizes import format_size

HEAD = ("size", "type", "redop", "placement", "backend", "p50 us", "p99 us", "busbw GB/s", "ratio")


def write(results: Results, folder: Path) -> Path:
    """Writes REPORT.md, chart.png and results.json into `folder`; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = plot.draw(results, folder / "chart.png")
    (folder / "results.json").write_text(results.to_json())
    page = folder / "REPORT.md"
    page.write_text("\n".join(_page(results, drawn)))
    return page


def _page(results: Results, drawn: bool) -> Iterator[str]:
    yield f"# Collectives of {', '.join(results.backends)} on {results.world_size} ranks\n"
    yield f"    {results.command}\n"
    yield markdown.machine_list()
    yield "Sizes and bandwidths are those of nccl-tests. The time of a call is that of its slowest"
    yield "rank; p50 and p99 are over the calls. The backends took turns in the same processes."
    yield f"`ratio` is a backend's p50 over the p50 of {results.backends[0]}. Every result was"
    yield f"checked: {_verdict(results)}.\n"
    if drawn:
        yield "![time and bus bandwidth against size](chart.png)\n"
    for name in dict.fromkeys(row.collective for row in results.rows):
        yield f"## {name}\n"
        rows = [row for row in results.rows if row.collective == name]
        yield markdown.table(HEAD, (_cells(row, rows) for row in rows), left=5)


def _verdict(results: Results) -> str:
    elements = "no element was" if not results.wrong else f"**{results.wrong} elements were**"
    failed = f"; **{len(results.errors)} rows failed**" if results.errors else ""
    return f"{elements} wrong{failed}"


def _cells(row: Row, rows: Sequence[Row]) -> list[str]:
    call = [format_size(row.size_bytes), row.dtype, row.redop, row.placement, row.backend]
    if row.timing is None:
        return [*call, f"failed: {row.error}", "", "", ""]
    times = [f"{row.timing.p50_us:.1f}", f"{row.timing.p99_us:.1f}"]
    over_first = ratio(row, rows)
    return [*call, *times, f"{row.busbw_gb_s:.2f}", f"{over_first:.2f}" if over_first else ""]
