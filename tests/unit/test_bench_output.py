"""The table, the JSON, the chart and the page say what was measured."""

import json
from pathlib import Path

import pytest

from fastgpu_comm.bench import machine, plot, report, results, table
from fastgpu_comm.bench.results import Results, Row, Timing


def row(backend: str, time_us: float, **fields: object) -> Row:
    values: dict[str, object] = {
        "collective": "all_reduce",
        "backend": backend,
        "placement": "in",
        "size_bytes": 1 << 20,
        "count": 1 << 18,
        "dtype": "float32",
        "redop": "sum",
        "root": -1,
        "timing": Timing(100, time_us, 2 * time_us, time_us, time_us, 3 * time_us),
        "algbw_gb_s": (1 << 20) / time_us / 1000,
        "busbw_gb_s": 2.0,
    }
    return Row(**{**values, **fields})  # type: ignore[arg-type]


def example(*rows: Row) -> Results:
    return Results(
        "fastgpu-comm bench all_reduce", 2, ["fast", "slow"], machine.describe(), {}, [*rows]
    )


def test_percentiles() -> None:
    timing = results.summarise([float(t) for t in range(1, 201)])
    assert (timing.calls, timing.p50_us, timing.p99_us) == (200, 100.5, 198.0)
    assert (timing.min_us, timing.max_us, timing.mean_us) == (1.0, 200.0, 100.5)
    assert results.summarise([7.0]).p99_us == 7.0


def test_ratio_is_over_the_first_backend_of_the_same_call() -> None:
    rows = [row("fast", 10), row("slow", 30), row("fast", 99, size_bytes=8)]
    assert results.ratio(rows[0], rows) is None
    assert results.ratio(rows[1], rows) == 3.0
    failed = row("fast", 1, timing=None, error="broken")
    assert results.ratio(rows[1], [failed, rows[1]]) is None


def test_lines_stand_under_their_headings() -> None:
    fast, slow = row("fast", 12.3456), row("slow", 4567.8)
    head = table.header(example(fast, slow)).splitlines()[-2]
    line = table.line([slow], [fast, slow])
    for heading, value in [
        ("size", "1048576"),
        ("count", "262144"),
        ("type", "float32"),
        ("redop", "sum"),
        ("root", "-1"),
        ("backend", "slow"),
    ]:
        end = head.index(heading) + len(heading)
        assert line[:end].split()[-1] == value
    assert line.split() == [
        *["1048576", "262144", "float32", "sum", "-1"],
        *["N/A", "N/A", "N/A", "N/A"],
        *["4568", "0.23", "2.00", "0"],
        *["slow", "N/A", "9136", "369.99"],
    ]


def test_a_failed_call_says_why() -> None:
    failed = row("slow", 1, timing=None, error="rank 1: RuntimeError: no")
    assert "slow failed: rank 1: RuntimeError: no" in table.line([failed], [failed])


def test_footer_has_wrong_elements_and_average_bandwidth() -> None:
    outcome = example(row("fast", 1, busbw_gb_s=3.0), row("fast", 1, busbw_gb_s=5.0, wrong=4))
    assert "Out of bounds values : 4 FAILED" in table.footer(outcome)
    assert "Avg bus bandwidth    : 4 GB/s (fast)" in table.footer(outcome)
    assert "Out of bounds values : 0 OK" in table.footer(example(row("fast", 1)))


def test_json_has_a_schema_and_every_number() -> None:
    written = json.loads(
        example(row("fast", 10), row("slow", 20, timing=None, error="no")).to_json()
    )
    assert next(iter(written)) == "schema"
    assert written["schema"] == 1
    assert set(written) == {
        *["schema", "command", "world_size", "backends", "machine", "options", "rows"]
    }
    first, second = written["rows"]
    assert set(first["timing"]) == {"calls", "p50_us", "p99_us", "mean_us", "min_us", "max_us"}
    assert (first["timing"]["p50_us"], first["busbw_gb_s"], first["wrong"]) == (10, 2.0, 0)
    assert (second["timing"], second["error"]) == (None, "no")


def test_report_writes_page_chart_and_json(tmp_path: Path) -> None:
    rows = [row(b, t * s, size_bytes=s) for s in (8, 64) for b, t in (("fast", 1), ("slow", 4))]
    page = report.write(example(*rows), tmp_path / "new").read_text()
    assert "fastgpu-comm bench all_reduce" in page
    assert "| 64 | float32 | sum | in | slow | 256.0 | 512.0 | 2.00 | 4.00 |" in page
    assert "no element was wrong" in page
    assert (tmp_path / "new" / "chart.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "new" / "results.json").read_text())["schema"] == 1


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        plot.draw(example(row("fast", 1, size_bytes=0)), tmp_path / "chart.png")
