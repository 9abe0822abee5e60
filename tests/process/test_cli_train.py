"""The command `fastgpu-comm train`, as users start it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastgpu_comm.cli import main
from fastgpu_comm.trainer.metrics import read

BACKEND = "fastgpu"
COMMAND = ["fastgpu_comm", "train", "--steps", "2", "--batch", "4", "--backend"]
OWN_RANKS = [sys.executable, "-m"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    for name in ("RANK", "WORLD_SIZE"):
        environment.pop(name, None)
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=280)


@pytest.mark.parametrize(
    "command",
    [[*OWN_RANKS, *COMMAND, BACKEND], [*TORCHRUN, "-m", *COMMAND, "gloo"]],
    ids=["own ranks", "torchrun"],
)
def test_it_trains_and_reports(command: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run([*command, "--out", str(out)])
    assert done.returncode == 0, done.stderr
    backend = command[-1]
    for words in (
        f"2 over {backend}",
        "The model writes:",
        "tokens/s",
        "bytes sent",
        "communication ",
        "loss curve",
    ):
        assert words in done.stdout
    assert done.stdout.count("The model writes:") == 1
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert [r["step"] for r in read(out / "metrics.jsonl") if r["event"] == "train"] == [2]
    assert (out / "checkpoints" / "step-000000000002.ckpt").exists()


def test_a_worker_that_fails_ends_the_command_with_its_error(tmp_path: Path) -> None:
    """Rank 0 alone fails, on a folder that cannot be made, while rank 1 waits for it."""
    file = tmp_path / "file"
    file.touch()
    done = run([*OWN_RANKS, *COMMAND, BACKEND, "--out", str(file / "out")])
    assert done.returncode != 0
    assert "NotADirectoryError" in done.stderr
    assert "The model writes" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "0"], "whole number of at least 1"),
        (["--learning-rate", "nan"], "'nan' is not a number above 0"),
        (["--backend", "foo"], "no backend 'foo' here; it has gloo"),
        (["--resume"], "--resume needs --out"),
        (["--batch", "2", "--accumulation", "3"], "at most batch_size, which is 2"),
        (["--seed", "-1"], "TrainerSettings.seed is -1"),
    ],
)
def test_bad_arguments_are_refused_before_anything_starts(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: int | str | None = main(["train", *arguments])
    except SystemExit as end:  # argparse's way
        status = end.code
    printed = capsys.readouterr()
    assert status == 2
    assert said in printed.err
    assert printed.out == ""
