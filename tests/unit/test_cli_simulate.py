"""The arguments, errors, table and files of `fastgpu-comm simulate`."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib import rc_context

import fastgpu_comm
from fastgpu_comm.bench import machine
from fastgpu_comm.cli import main
from fastgpu_comm.cli.simulate import SIMULATED, parse_ranks
from fastgpu_comm.native import Constants, collectives
from fastgpu_comm.simulation import GPU_LINKS, Point, Scenario, format_time, why_not_quickest


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
        (["--ranks", "9" * 5000], "is not a range or list of ranks"),
        (["--bytes", "4z"], "is not a size"),
        (["--bytes", "0"], "is not a size of at least 1 byte"),
        (["--bytes", "2"], "2 bytes have no float32 for each of 1024 ranks"),
        (["--alpha", "-1"], "'-1' is not a number of at least 0"),
        (["--beta", "nan"], "'nan' is not a number of at least 0"),
        (["--alpha", "1e308"], "at most 1e+09"),
        (["--gpus", "nvlnk4"], "nvlink4"),
        (["--lanes", "0"], "is not a whole number from 1"),
        (["--chunk", "1"], "--chunk cuts the buffer into over 65536 pieces"),
        (["--slow-rank", "1"], "write 3=2.5"),
        (["--slow-rank", "1=0"], "'0' is not a number above 0"),
        (["--slow-link", "1=2"], "write 0-1=10"),
        (["--algorithm", "rung"], "no algorithm of all_reduce 'rung'. Did you mean 'ring'?"),
        (["--ranks", "2,4", "--slow-rank", "4=2"], "rank 4 does not exist: the largest"),
        (["--json", "no/such/folder.json"], "cannot write no/such/folder.json"),
        (["--plot", "x.foo"], "x.foo is not a picture file"),
        (["--constants", "other"], "not the costs of links"),
        (["--ranks", "2", "--lanes", "256"], "1 to 255 lanes"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["simulate", "all_reduce", *arguments])
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("fastgpu-comm simulate: ")
    assert message in line


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
    worlds, names = (2, 4, 8, 16), ("ring", "hierarchical", "auto")
    assert set(times) == {(world, name) for world in worlds for name in names}
    assert plot.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "ring" in printed
    assert format_time(times[16, "ring"]) in printed


def test_the_machine_is_the_one_given(tmp_path: Path) -> None:
    what = ("--ranks", "8", "--ranks-per-host", "1", "--bytes", "8", "--algorithm", "ring")
    quick, slow = (simulate(tmp_path, *what, "--alpha", alpha) for alpha in ("10", "1000"))
    assert slow[8, "ring"] - quick[8, "ring"] == pytest.approx(14 * 990)


def test_gpus_move_bytes_at_the_rate_of_their_link(tmp_path: Path) -> None:
    what = ("--ranks", "2", "--bytes", "64M", "--algorithm", "ring")
    for link, rate in GPU_LINKS.items():
        bound_us = (64 << 20) / rate / 1e3  # every rank pulls each byte once
        us = simulate(tmp_path, *what, "--gpus", link)[2, "ring"]
        assert bound_us < us < 1.1 * bound_us
    slower = simulate(tmp_path, *what, "--gpus", "nvlink4", "--inside-beta", "0.001")[2, "ring"]
    assert slower > 67_000


def test_slow_ranks_and_links_show(tmp_path: Path) -> None:
    what = ("--ranks", "8", "--bytes", "1M", "--algorithm", "ring")
    even = simulate(tmp_path, *what)[8, "ring"]
    assert simulate(tmp_path, *what, "--slow-rank", "3=5")[8, "ring"] > 3 * even
    assert simulate(tmp_path, *what, "--slow-link", "3-4=100")[8, "ring"] > 3 * even


def test_every_collective_with_a_schedule_is_offered() -> None:
    assert set(SIMULATED) == set(collectives())


@pytest.mark.parametrize("flag", ["--json", "--plot"])
def test_a_full_disk_is_one_line(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = tmp_path / "full.png"
    full.symlink_to("/dev/full")
    assert main(["simulate", "barrier", "--ranks", "2", flag, str(full)]) == 1
    said = f"fastgpu-comm simulate: [Errno 28] No space left on device: '{full}'"
    assert capsys.readouterr().err.splitlines() == [said]


def test_the_picture_says_what_it_shows(tmp_path: Path) -> None:
    picture = tmp_path / "out.svg"
    with rc_context({"svg.fonttype": "none"}):  # text stays text
        assert main(["simulate", "barrier", "--ranks", "2-8", "--plot", str(picture)]) == 0
    drawn = picture.read_text()
    origin = f"fastgpu_comm {fastgpu_comm.__version__}", machine.describe()["date"]
    for words in ("ranks", "time of a call (us)", "predicted", "barrier", *origin):
        assert words in drawn, words


def test_a_single_rank_can_be_drawn(tmp_path: Path) -> None:
    picture = tmp_path / "out.png"
    assert main(["simulate", "barrier", "--ranks", "1", "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_auto_is_what_the_library_does(tmp_path: Path) -> None:
    """At 4 ranks and 4 KiB a direct all_reduce takes two shots; in one it would be slower."""
    times = simulate(tmp_path, "--ranks", "4", "--bytes", "4K")
    assert times[4, "auto"] <= min(times.values())


def test_where_auto_is_not_the_quickest_a_line_says_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    what = ["simulate", "all_reduce", "--ranks", "4,32", "--bytes", "64M"]
    assert main(what) == 0
    marked = capsys.readouterr().out
    assert [line.split()[1] for line in marked.splitlines() if " *" in line] == ["32"]
    assert "* 32 ranks: ring takes " in marked
    assert "differ by less than 5%, as much as they may be wrong" in " ".join(marked.split())
    assert main([*what, "--slow-rank", "0=9", "--ranks", "8"]) == 0
    assert "auto does not know of slow ranks and links" in capsys.readouterr().out


def point(name: str, predicted_us: float, simulated_us: float | None) -> Point:
    return Point(4, name, predicted_us, simulated_us, name)


@pytest.mark.parametrize(
    ("auto", "other", "reason"),
    [
        ((10, 10), (9, 10), ""),
        ((10, 10), (9, None), ""),
        ((10, 20), (11, 10), "by price, which is what auto goes by, it is not slower (10.0 us aga"),
        ((10, 20), (9.6, 10), "differ by less than 5%"),
        ((10, 20), (5, 10), "auto has a rule against it (docs/cost.md)"),
    ],
)
def test_the_reason_is_the_rule_that_auto_went_by(
    auto: tuple[float, float], other: tuple[float, float | None], reason: str
) -> None:
    scenario = Scenario("all_reduce", 8, [4], 8, ["other"], None, None, Constants())
    said = why_not_quickest(scenario, [point("other", *other), point("auto", *auto)])
    assert bool(said) == bool(reason)
    assert reason in said


def test_beyond_the_most_steps_the_price_stands_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    what = ("--ranks", "64", "--algorithm", "ring", "--bytes", "1M", "--max-steps", "1000")
    assert simulate(tmp_path, *what)[64, "ring"] is None
    printed = capsys.readouterr().out
    assert "~" in printed
    assert "~ the price: over 1,000 steps" in printed


def test_ctrl_c_ends_a_simulation_at_once() -> None:
    command = [sys.executable, "-m", "fastgpu_comm", "simulate", "all_reduce"]
    what = ["--ranks", "4096", "--algorithm", "ring", "--max-steps", "100000000"]
    terminal, other_end = pty.openpty()  # the progress bar shows that the simulation runs
    process = subprocess.Popen(
        [*command, *what],
        stderr=other_end,
        start_new_session=True,
        # nohup and the shell's `&` start the tests with the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(other_end)
    shown = b""
    while b"simulating" not in shown:
        shown += os.read(terminal, 4096)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    with contextlib.suppress(OSError):  # the end of a terminal
        while more := os.read(terminal, 4096):
            shown += more
    assert shown.endswith(b"fastgpu-comm simulate: interrupted\r\n")
    assert b"Traceback" not in shown


def test_the_help_has_the_defaults_of_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["simulate", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    defaults = re.findall(r"--[a-z-]+ (?:US|US/BYTE) [^()]*\(default: ([\d.]+)\)", told)
    costs = Constants()
    assert [float(default) for default in defaults] == [
        costs.between_hosts.alpha_us,
        costs.between_hosts.beta_us_per_byte,
        costs.nic_us_per_byte,
        costs.same_host.alpha_us,
        costs.same_host.beta_us_per_byte,
        costs.reduce_us_per_byte,
    ]
