"""The benchmark in real processes: it ends well on a right backend, and catches a wrong one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from fastgpu_comm import launch
from fastgpu_comm.collectives import COLLECTIVES

QUICK = ["--budget", "0.01", "--min-calls", "2", "--warmup", "1", "--timeout", "60"]

# Runs the command's rank with one element of every result of some collectives spoilt.
SPOILT = """
import sys
import torch.distributed as dist
from fastgpu_comm.cli import main
def spoilt(right):
    def wrong(tensor, *arguments, **named):
        right(tensor, *arguments, **named)
        tensor.view(-1)[-1] += 1
    return wrong
for name in sys.argv[1].split(","):
    setattr(dist, name, spoilt(getattr(dist, name)))
sys.exit(main(sys.argv[2:]))
"""

# Runs the command's rank where rank 1's calls raise.
BROKEN = """
import os, sys
import torch.distributed as dist
from fastgpu_comm.cli import main
right = dist.all_reduce
def broken(tensor, *arguments, **named):
    if tensor.numel() == 16:
        raise RuntimeError(f"refused on {os.environ['RANK']}")
    right(tensor, *arguments, **named)
dist.all_reduce = broken
sys.exit(main(sys.argv[1:]))
"""


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastgpu_comm", "bench", *arguments, *QUICK]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


def test_every_collective_is_right_on_gloo(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    sizes = ["-b", "96", "-e", "9600", "-f", "100"]
    ended = bench(
        *["all", "--backend", "gloo", "--nproc", "3", *sizes],
        *["--json", str(output), "--plot", str(tmp_path / "out.png")],
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    written = json.loads(output.read_text())
    assert {row["collective"] for row in written["rows"]} == set(COLLECTIVES)
    assert [row for row in written["rows"] if row["wrong"] or row["error"]] == []
    assert all(row["timing"]["calls"] >= 2 for row in written["rows"])
    assert written["world_size"] == 3
    assert "Out of bounds values : 0 OK" in ended.stdout
    assert (tmp_path / "out.png").exists()


def test_as_many_calls_as_asked_for(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    what = ["allreduce", "--backend", "gloo", "-b", "64", "-e", "64", "--json", str(output)]
    ended = subprocess.run(
        [sys.executable, "-m", "fastgpu_comm", "bench", *what, "-n", "7", "-w", "0"],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (row,) = json.loads(output.read_text())["rows"]
    assert row["timing"]["calls"] == 7


def test_a_rank_that_cannot_join_says_why_in_one_line(tmp_path: Path) -> None:
    """Another process has the port of the store."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        rank = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        for command in (["bench", "all_reduce"], ["train", "--out", str(tmp_path / "out")]):
            ended = subprocess.run(
                [sys.executable, "-m", "fastgpu_comm", *command, "--backend", "gloo"],
                env={**os.environ, **rank, **address},
                capture_output=True,
                text=True,
                timeout=280,
            )
            assert ended.returncode == 1
            assert "Traceback" not in ended.stderr
            said = [line for line in ended.stderr.splitlines() if line.startswith("fastgpu-comm")]
            assert len(said) == 1
            assert "rank 0: DistNetworkError: " in said[0]
            assert "address already in use" in said[0]


def test_a_reader_that_leaves_ends_the_benchmark_quietly() -> None:
    """As with `fastgpu-comm bench ... | head -1`."""
    command = [sys.executable, "-m", "fastgpu_comm", "bench", "all_reduce", "--backend", "gloo"]
    process = subprocess.Popen(
        [*command, "-f", "1.1", *QUICK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("# fastgpu-comm bench")
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 1


def test_dtypes_reductions_and_touching(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    ended = bench(
        *["all_reduce", "reduce_scatter", "--backend", "gloo", "-b", "4096", "-e", "4096"],
        *["--dtype", "int32,uint8", "--redop", "sum,prod,min,max,band,bor,bxor"],
        *["--touch", "--json", str(output)],
    )
    rows = json.loads(output.read_text())["rows"]
    assert {(row["dtype"], row["redop"]) for row in rows} == {
        (dtype, redop)
        for dtype in ("int32", "uint8")
        for redop in ("sum", "prod", "min", "max", "band", "bor", "bxor")
    }
    assert [row for row in rows if row["wrong"]] == []
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_wrong_collectives_are_caught(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    spoilt = "all_reduce,broadcast,all_to_all_single"
    status = launch.launch(
        [
            *[sys.executable, "-c", SPOILT, spoilt, "bench", "all_reduce", "broadcast"],
            *["all_to_all", "all_gather", "--backend", "gloo"],
            *["-b", "64", "-e", "64", "--json", str(output), *QUICK],
        ],
        2,
    )
    assert status == 1
    found = {row["collective"]: row["wrong"] for row in json.loads(output.read_text())["rows"]}
    # One on each of 2 ranks, before and after.
    assert found == {"all_reduce": 4, "broadcast": 4, "all_to_all": 4, "all_gather": 0}


def test_a_failing_call_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    status = launch.launch(
        [
            *[sys.executable, "-c", BROKEN, "bench", "all_reduce", "--backend", "gloo"],
            *["-b", "32", "-e", "128", "-f", "2", "--json", str(output), *QUICK],
        ],
        2,
    )
    assert status == 1
    rows = json.loads(output.read_text())["rows"]
    assert [row["error"] for row in rows] == [None, "rank 0: RuntimeError: refused on 0", None]
