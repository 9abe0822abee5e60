"""Writes a benchmark as a page: the machine, the command, a table for each collective, a chart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fastgpu_comm.bench import plot
from fastgpu_comm.bench.results import Results, Row, ratio
from fastgpu_comm.bench.sizes import format_size


def write(results: Results, folder: Path) -> Path:
    """Writes REPORT.md, chart.png and results.json into `folder`; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    plot.draw(results, folder / "chart.png")
    (folder / "results.json").write_text(results.to_json())
    page = folder / "REPORT.md"
    page.write_text("\n".join(_page(results)) + "\n")
    return page


def _page(results: Results) -> Iterator[str]:
    yield f"# Collectives of {', '.join(results.backends)} on {results.world_size} ranks"
    yield ""
    yield f"    {results.command}"
    yield ""
    yield from (f"- {name}: {value}" for name, value in results.machine.items())
    yield ""
    yield "Sizes and bandwidths are nccl-tests'. A call's time is its slowest rank's; p50 and p99"
    yield "are over calls; the backends took turns in the same processes. `ratio` is the backend's"
    yield f"p50 over that of {results.backends[0]}. Every result was checked: {_verdict(results)}."
    yield ""
    yield "![time and bus bandwidth against size](chart.png)"
    for name in dict.fromkeys(row.collective for row in results.rows):
        yield ""
        yield f"## {name}"
        yield ""
        yield from _table([row for row in results.rows if row.collective == name])


def _verdict(results: Results) -> str:
    elements = "no element was" if not results.wrong else f"**{results.wrong} elements were**"
    failed = f"; **{len(results.errors)} rows failed**" if results.errors else ""
    return f"{elements} wrong{failed}"


def _table(rows: list[Row]) -> Iterator[str]:
    yield "| size | type | redop | placement | backend | p50 us | p99 us | busbw GB/s | ratio |"
    yield "| ---: | --- | --- | --- | --- | ---: | ---: | ---: | ---: |"
    for row in rows:
        key = f"| {format_size(row.size_bytes)} | {row.dtype} | {row.redop} | {row.placement} "
        if row.timing is None:
            yield f"{key}| {row.backend} | failed: {row.error} | | | |"
            continue
        over_first = ratio(row, rows)
        yield (
            f"{key}| {row.backend} | {row.timing.p50_us:.1f} | {row.timing.p99_us:.1f} "
            f"| {row.busbw_gb_s:.2f} | {'' if over_first is None else f'{over_first:.2f}'} |"
        )
