"""The command `fastgpu-comm train`, as users start it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastgpu_comm.cli import main
from fastgpu_comm.trainer import demo
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


def assert_reported(printed: str, out: Path, backend: str, gradients: str) -> None:
    for words in (
        f"2 over {backend}",
        "The model writes:",
        "tokens/s",
        "bytes sent",
        "communication ",
        "loss curve",
        "exposed: ",
        gradients,
    ):
        assert words in printed
    assert printed.count("The model writes:") == 1
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert [r["step"] for r in read(out / "metrics.jsonl") if r["event"] == "train"] == [2]
    assert (out / "checkpoints" / "step-000000000002.ckpt").exists()


def test_it_trains_and_is_resumed_but_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*OWN_RANKS, *COMMAND, BACKEND, "--codec", "int8", "--weighted", "--out", str(out)]
    done = run(command)
    assert done.returncode == 0, done.stderr
    assert_reported(done.stdout, out, BACKEND, "gradients travel as")
    again = run(command)
    assert again.returncode == 2
    (line,) = again.stderr.splitlines()
    assert "has the checkpoints of an earlier run: continue it with --resume" in line
    resumed = run([*command, "--resume", "--steps", "3"])
    assert resumed.returncode == 0, resumed.stderr
    assert "steps           3 in" in resumed.stdout


@pytest.mark.parametrize(
    ("command", "backend"),
    [
        ([*OWN_RANKS, *COMMAND, BACKEND, "--codec", "auto", "--weighted"], BACKEND),
        ([*TORCHRUN, "-m", *COMMAND, "gloo"], "gloo"),
    ],
    ids=["auto", "torchrun"],
)
def test_it_trains_without_a_codec(command: list[str], backend: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run([*command, "--out", str(out)])
    assert done.returncode == 0, done.stderr
    assert_reported(done.stdout, out, backend, "none, gradients travel uncompressed")


def test_codec_auto_that_compresses_nothing_is_not_timed_and_says_so(tmp_path: Path) -> None:
    done = run([*OWN_RANKS, *COMMAND, BACKEND, "--codec", "auto", "--out", str(tmp_path / "out")])
    assert done.returncode == 0, done.stderr
    assert "not timed: on a GPU, with a communication hook, or where codec auto " in done.stdout


def test_a_rank_that_fails_ends_the_command_with_one_line(tmp_path: Path) -> None:
    """Rank 0 cannot open a file, while rank 1 waits in a collective."""
    (tmp_path / "metrics.jsonl").mkdir()
    done = run([*OWN_RANKS, *COMMAND, BACKEND, "--out", str(tmp_path)])
    assert done.returncode == 1
    assert "fastgpu-comm train: rank 0: IsADirectoryError: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "The model writes" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "0"], "'0' is not a whole number from 1"),
        (["--learning-rate", "nan"], "'nan' is not a number above 0"),
        (["--backend", "foo"], "no backend 'foo' here; it has gloo"),
        (["--backend", "fastgqu"], "Did you mean 'fastgpu'?"),
        (["--resume"], "--resume needs --out"),
        (["--batch", "2", "--accumulation", "3"], "--accumulation 3 is above --batch 2"),
        (["--seed", "-1"], "'-1' is not a whole number from 0"),
        (["--precision", "fp8"], "no precision 'fp8'. The choice is: fp32, bf16, fp16"),
        (["--codec", "int9"], "no codec 'int9'. Did you mean 'int8'?"),
        (["--codec", "1bit"], "codec 1bit does not work with AdamW, which this command uses"),
        (["--codec", "int8", "--backend", "gloo"], "--codec int8 needs --backend fastgpu"),
        (["--weighted", "--backend", "gloo"], "--weighted needs --backend fastgpu"),
        (["--device", "gpu"], "no device 'gpu'. Did you mean 'cpu'?"),
        (["--out", "/proc/self/out"], "cannot make the folder /proc/self/out"),
        (["--nproc", "1000000000"], "1000000000 ranks do not fit into the memory of this host"),
        (["--stesp", "2"], "no flag '--stesp'. Did you mean '--steps'?"),
    ],
)
def test_bad_arguments_are_refused_before_anything_starts(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", *arguments])
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert said in line
    assert printed.out == ""


def test_cuda_without_a_gpu_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--device", "cuda"])
    assert "--device cuda needs a GPU" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["3", None])
def test_torchs_threads_are_left_alone_where_they_were_set(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    demo._take_device("cpu", 0)
    assert taken == ([] if given else [8])
