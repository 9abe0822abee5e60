"""Programs that ask for gloo run on fastgpu, by a call or the environment, unless a rank cannot."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.process import replace_gloo_checks as checks
from tests.process.ranks import Ranks, Setting

from fastgpu_comm.gloo import Ballot, Verdict, decide

TWO = Setting(2, backend="gloo")
FOUR = Setting(4, backend="gloo")
DETAIL = Setting(2, backend="gloo", environment={"TORCH_DISTRIBUTED_DEBUG": "DETAIL"})

# It does not name fastgpu.
ASKS_FOR = """
import torch, torch.distributed as dist
for asked in {}:
    dist.init_process_group(asked)
    tensor = torch.ones(3)
    dist.all_reduce(tensor)
    assert tensor.tolist() == [2, 2, 2]
    used = set(map(dist.get_backend_config, (None, dist.new_group())))
    if dist.get_rank() == 0:
        print(asked, dist.get_backend(), *used, flush=True)
    dist.destroy_process_group()
"""
HIDES_THE_NATIVE_MODULE = "import os, sys\nif os.environ['RANK'] == '1':\n"
HIDES_THE_NATIVE_MODULE += "    sys.modules['fastgpu_comm._native'] = None\n"
HAS_NO_INTERFACE = "import os\nif os.environ['RANK'] == '1':\n"
HAS_NO_INTERFACE += "    os.environ['FASTGPU_INTERFACE'] = 'absent'\n"

COMPARES = """
import sys
from datetime import timedelta
import torch
from fastgpu_comm.bench.job import Job
job = Job(["fastgpu", "gloo"], timedelta(seconds=60))
names = (group._get_backend(torch.device("cpu")).name() for group in job.groups.values())
sys.stdout.write(" ".join(names) + "\\n")  # one write: lines of two ranks do not mix
job.leave()
"""


def run_two(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a program under torchrun with FASTGPU_REPLACE_GLOO in the environment."""
    path = folder / "program.py"
    path.write_text(program)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*torchrun, str(path)],
        env={**os.environ, "FASTGPU_REPLACE_GLOO": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.parametrize("check", [checks.every_way_to_ask, checks.undone, checks.one_rank_forgot])
def test_on_two_ranks(ranks: Ranks, check: Callable[[], None]) -> None:
    ranks.run(check, TWO)


def test_other_devices(ranks: Ranks) -> None:
    ranks.kill()  # for processes that have logged nothing yet
    ranks.run(checks.other_devices, TWO)


def test_subgroups(ranks: Ranks) -> None:
    ranks.run(checks.subgroups, FOUR)


def test_debug_detail(ranks: Ranks) -> None:
    ranks.run(checks.every_way_to_ask, DETAIL)


def test_by_the_environment(tmp_path: Path) -> None:
    asked = ("gloo", None, "GLOO", "cpu:gloo,cuda:gloo")
    result = run_two(ASKS_FOR.format(asked), tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "gloo gloo cpu:fastgpu",
        "None undefined cpu:fastgpu",
        "GLOO gloo cpu:fastgpu",
        "cpu:gloo,cuda:gloo cpu:gloo,cuda:gloo cpu:fastgpu",
    ]
    lines = re.findall("^fastgpu level=.*", result.stderr, re.MULTILINE)
    assert lines == [
        "fastgpu level=warn event=gloo_replaced "
        'reason="a program asked for gloo: it gets cpu:fastgpu"'
    ]


def test_a_program_may_name_no_backend(tmp_path: Path) -> None:
    result = run_two(ASKS_FOR.format((None,)), tmp_path)
    assert result.returncode == 0, result.stderr
    assert 'reason="a program named no backend: it gets cpu:fastgpu"' in result.stderr


def test_a_wrong_value_in_the_environment_is_said() -> None:
    result = subprocess.run(
        [sys.executable, "-c", "import torch"],
        env={**os.environ, "FASTGPU_REPLACE_GLOO": "true"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0
    assert "FASTGPU_REPLACE_GLOO is 'true', which is not allowed" in result.stderr


@pytest.mark.parametrize(
    ("cause", "reason"),
    [(HIDES_THE_NATIVE_MODULE, "ImportError: "), (HAS_NO_INTERFACE, "absent")],
    ids=["no native module", "no interface"],
)
def test_all_ranks_keep_gloo_if_one_cannot_replace_it(
    cause: str, reason: str, tmp_path: Path
) -> None:
    result = run_two(cause + ASKS_FOR.format(("gloo",)), tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "gloo gloo cpu:gloo,cuda:gloo\n"
    lines = re.findall("^fastgpu level=.*", result.stderr, re.MULTILINE)
    assert len(lines) == 1, lines
    assert "event=gloo_kept" in lines[0]
    assert "rank 1: " in lines[0]
    assert reason in lines[0]


def test_the_benchmark_measures_the_real_gloo(tmp_path: Path) -> None:
    result = run_two(COMPARES, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["fastgpu gloo"] * 2


def test_devices() -> None:
    able, with_cuda, unable = Ballot("", False), Ballot("", True), Ballot("a reason", True)
    plain = {"cpu": "gloo", "cuda": "gloo"}
    assert decide(plain, [able, able]) == Verdict("cpu:fastgpu", "")
    assert decide(plain, [able, with_cuda]) == Verdict("cpu:fastgpu,cuda:gloo", "")
    assert decide({"cpu": "gloo", "cuda": "nccl"}, [able]).backend == "cpu:fastgpu,cuda:nccl"
    assert decide(plain, [able, unable]) == Verdict("", "rank 1: a reason")
