"""The table, the JSON, the chart and the page say what was measured."""

import json
from pathlib import Path

import pytest
from matplotlib import rc_context

import fastgpu_comm
from fastgpu_comm.bench import machine, plot, report, results, table
from fastgpu_comm.bench.results import Results, Row, Timing
from fastgpu_comm.collectives import COLLECTIVES


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
    names = table.section(slow, ["fast", "slow"]).splitlines()[-2]
    line = table.line(slow, [fast, slow], ["fast", "slow"])
    assert names.split()[:2] == ["#", "backend"]
    assert names.split()[1:] == [
        *["backend", "size", "count", "time", "p99", "algbw", "busbw", "#wrong", "ratio"]
    ]
    for heading, value in zip(names.split()[2:], line.split()[1:], strict=True):
        end = names.index(f" {heading}") + 1 + len(heading)
        assert line[:end].split()[-1] == value
    assert line.split() == [
        *["slow", "1048576", "262144", "4568", "9136", "0.23", "2.00", "0", "369.99"]
    ]


@pytest.mark.parametrize("name", COLLECTIVES)
@pytest.mark.parametrize("backends", [["fast"], ["fast", "a_backend"]])
def test_tables_fit_100_columns_and_have_no_empty_one(name: str, backends: list[str]) -> None:
    collective = COLLECTIVES[name]
    facts: dict[str, object] = {
        "collective": name,
        "placement": collective.placements[0],
        "size_bytes": 2**34 if collective.has_data else 0,
        "count": 2**34 if collective.has_data else 0,
        "dtype": "float8_e4m3fnuz",
        "redop": "bxor" if collective.reduces else "none",
        "root": 0 if collective.rooted else -1,
        "busbw_gb_s": 1234.5,
        "algbw_gb_s": 1234.5,
    }
    rows = [row(backend, 12345678.9, **facts) for backend in backends]
    texts = [
        table.header(example(*rows)),
        table.section(rows[0], backends),
        *(table.line(each, rows, backends) for each in rows),
    ]
    assert max(len(text) for text in "\n".join(texts).splitlines()) <= 100
    assert "N/A" not in "\n".join(texts)
    assert len(texts[-1].split()) == len(texts[1].splitlines()[-2].split()) - 1


def test_a_failed_call_says_why() -> None:
    failed = row("slow", 1, timing=None, error="rank 1: RuntimeError: no")
    told = table.line(failed, [failed], ["slow"])
    assert told == "# slow failed at 1048576 bytes, in-place: rank 1: RuntimeError: no"


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


def test_nothing_to_draw_draws_nothing(tmp_path: Path) -> None:
    nothing = example(row("fast", 1, size_bytes=0))
    assert not plot.draw(nothing, tmp_path / "chart.png")
    assert "chart.png" not in report.write(nothing, tmp_path).read_text()
    assert not (tmp_path / "chart.png").exists()


def test_a_picture_says_what_it_shows(tmp_path: Path) -> None:
    rows = [row(b, t * s, size_bytes=s) for s in (8, 64) for b, t in (("fast", 1), ("slow", 99))]
    picture = tmp_path / "chart.svg"
    with rc_context({"svg.fonttype": "none"}):  # text stays text
        assert plot.draw(example(*rows), picture)
    drawn = picture.read_text()
    for words in (
        *("largest buffer (bytes)", "time of a call (us)", "bus bandwidth (GB/s)"),
        *("fast", "slow", f"fastgpu_comm {fastgpu_comm.__version__}", machine.describe()["date"]),
    ):
        assert words in drawn
