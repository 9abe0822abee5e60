"""`launch` gives each rank a rendezvous, and stops every rank when one fails."""

import sys

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
