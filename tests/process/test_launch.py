"""`launch` gives each rank a rendezvous, and stops every rank when one fails."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastgpu_comm import launch

SUM_OVER_RANKS = """
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([dist.get_rank() + 1])
dist.all_reduce(total)
dist.destroy_process_group()
raise SystemExit(int(total) != 6)
"""

ONE_FAILS_THE_REST_SLEEP = """
import os, time
if os.environ["RANK"] == "1":
    raise SystemExit(7)
time.sleep(3600)
"""

ONE_IS_KILLED = """
import os, signal, time
if os.environ["RANK"] == "0":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(3600)
"""


def test_ranks_find_each_other() -> None:
    assert launch.launch([sys.executable, "-c", SUM_OVER_RANKS], 3) == 0


@pytest.mark.parametrize(
    ("program", "status"), [(ONE_FAILS_THE_REST_SLEEP, 7), (ONE_IS_KILLED, 128 + 9)]
)
def test_one_failure_stops_every_rank(program: str, status: int) -> None:
    # A rank that is not stopped would sleep for longer than a test may take.
    assert launch.launch([sys.executable, "-c", program], 2) == status


def test_this_process_is_no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert not launch.is_rank()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launch.is_rank()


def test_a_killed_rank_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch.launch([sys.executable, "-c", ONE_IS_KILLED], 2) == 128 + 9
    assert (
        "rank 0 was ended by signal 9 (Killed): was there enough memory?" in capfd.readouterr().err
    )


def _default_signals() -> None:
    """Undoes nohup and the shell's `&`, under which a program starts with signals ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("command", "number", "to_all"),
    [
        (["bench", "all_reduce", "-n", "100000000"], signal.SIGINT, True),
        (["bench", "all_reduce", "-n", "100000000"], signal.SIGHUP, False),
        (["train"], signal.SIGTERM, False),
    ],
    ids=["bench SIGINT", "bench SIGHUP", "train SIGTERM"],
)
def test_a_signal_ends_the_command_and_its_ranks(
    command: list[str], number: signal.Signals, to_all: bool, tmp_path: Path
) -> None:
    """A terminal sends Ctrl-C to every process; `kill` sends its signal to the launcher alone."""
    environment = {**os.environ, "FASTGPU_LOG": "error"}
    process = subprocess.Popen(
        [sys.executable, "-m", "fastgpu_comm", *command, "--backend", "gloo"],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_default_signals,
    )
    assert process.stdout is not None
    while not re.match("# .*ranks|ranks", process.stdout.readline()):  # the ranks run
        assert process.poll() is None
    (os.killpg if to_all else os.kill)(process.pid, number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert told == f"stopped by {number.name}; all ranks are ended\n"
    with pytest.raises(ProcessLookupError):  # no process is left in the session
        os.killpg(process.pid, 0)


def test_threads_are_the_users_or_a_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert launch.rank_environment(0, 2, 1)["OMP_NUM_THREADS"] == "3"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert launch.rank_environment(0, 2, 1)["OMP_NUM_THREADS"] == "8"
    assert launch.rank_environment(0, 32, 1)["OMP_NUM_THREADS"] == "1"
