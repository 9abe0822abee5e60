"""The arguments, errors, table and files of `fastgpu-comm simulate`."""

import json
from pathlib import Path

import pytest

from fastgpu_comm.cli import main
from fastgpu_comm.cli.simulate import SIMULATED, parse_ranks
from fastgpu_comm.native import collectives
from fastgpu_comm.simulation import format_time


@pytest.mark.parametrize(
    ("text", "ranks"),
    [
        ("2-16", [2, 4, 8, 16]),
        ("2-12", [2, 4, 8, 12]),
        ("3-3", [3]),
        ("8,2,5", [2, 5, 8]),
        ("7", [7]),
    ],
)
def test_ranks(text: str, ranks: list[int]) -> None:
    assert parse_ranks(text) == ranks


@pytest.mark.parametrize(
    ("time_us", "text"),
    [(0.5, "0.500 us"), (161, "161 us"), (1500, "1.50 ms"), (2.5e6, "2.50 s")],
)
def test_times(time_us: float, text: str) -> None:
    assert format_time(time_us) == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranks", "0-4"], "is not a range or list of ranks"),
        (["--ranks", "9-4"], "is not a range or list of ranks"),
        (["--ranks", "2,,4"], "is not a range or list of ranks"),
        (["--ranks", "70000"], "is not a range or list of ranks"),
        (["--bytes", "4z"], "is not a size"),
        (["--alpha", "-1"], "is not a cost"),
        (["--beta", "nan"], "is not a cost"),
        (["--lanes", "0"], "not a whole number of at least 1"),
        (["--slow-rank", "1"], "write 3=2.5"),
        (["--slow-link", "1=2"], "write 0-1=10"),
    ],
)
def test_arguments_that_cannot_be_read(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["simulate", "all_reduce", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--algorithm", "rung"], "has no algorithm 'rung'; it has ring"),
        (
            ["--ranks", "2,4", "--slow-rank", "4=2"],
            "rank 4 does not exist: the largest",
        ),
        (["--json", "no/such/folder.json"], "no folder"),
        (["--plot", "x.foo"], "x.foo is not a picture file"),
        (["--constants", "other"], "not the costs of links"),
        (["--ranks", "2", "--lanes", "256"], "1 to 255 lanes"),
    ],
)
def test_arguments_that_make_no_sense(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main(["simulate", "all_reduce", *arguments])


def simulate(tmp_path: Path, *arguments: str) -> dict[tuple[int, str], float]:
    path = tmp_path / "out.json"
    assert main(["simulate", "all_reduce", "--json", str(path), *arguments]) == 0
    points = json.loads(path.read_text())["points"]
    return {(point["world"], point["algorithm"]): point["simulated_us"] for point in points}


def test_prints_and_writes_every_world_and_algorithm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "out.png"
    times = simulate(
        tmp_path, "--ranks", "2-16", "--algorithm", "ring,hierarchical", "--plot", str(plot)
    )
    worlds, names = (2, 4, 8, 16), ("ring", "hierarchical")
    assert set(times) == {(world, name) for world in worlds for name in names}
    assert plot.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "ring" in printed
    assert format_time(times[16, "ring"]) in printed


def test_the_machine_is_the_one_given(tmp_path: Path) -> None:
    what = ("--ranks", "8", "--ranks-per-host", "1", "--bytes", "8", "--algorithm", "ring")
    quick, slow = (simulate(tmp_path, *what, "--alpha", alpha) for alpha in ("10", "1000"))
    assert slow[8, "ring"] - quick[8, "ring"] == pytest.approx(14 * 990)


def test_slow_ranks_and_links_show(tmp_path: Path) -> None:
    what = ("--ranks", "8", "--bytes", "1M", "--algorithm", "ring")
    even = simulate(tmp_path, *what)[8, "ring"]
    assert simulate(tmp_path, *what, "--slow-rank", "3=5")[8, "ring"] > 3 * even
    assert simulate(tmp_path, *what, "--slow-link", "3-4=100")[8, "ring"] > 3 * even


def test_every_collective_with_a_schedule_is_offered() -> None:
    assert set(SIMULATED) == set(collectives())
