"""A rank that runs out of a resource says so, and its peers hear it, instead of a lost rank."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys

import pytest
import torch.distributed as dist
from tests.process import shortage_checks as checks
from tests.process.programs import run_programs
from tests.process.ranks import Ranks, Setting

SHM = Setting(3)
TCP = Setting(3, environment={"FASTGPU_TRANSPORT": "tcp"})
SECONDS = 200.0  # for one program, on a busy machine
BOTH = pytest.mark.parametrize("setting", [SHM, TCP], ids=["shm", "tcp"])


@BOTH
@pytest.mark.parametrize("spare", [0, 1])
def test_descriptors(ranks: Ranks, setting: Setting, spare: int) -> None:
    ranks.kill()  # a process keeps the links of its earlier groups
    ranks.run(checks.without_descriptors, setting, spare)
    ranks.kill()


@pytest.mark.parametrize(("setting", "per_peer"), [(SHM, 0), (TCP, 2)], ids=["shm", "tcp"])
def test_descriptors_of_groups(ranks: Ranks, setting: Setting, per_peer: int) -> None:
    ranks.run(checks.descriptors_of_groups, setting, per_peer)


# The program of a rank. Only rank 1 runs short of descriptors.
SET_UP = """
import itertools, os, resource, sys
from datetime import timedelta
import torch, torch.distributed as dist, fastgpu_comm
from fastgpu_comm import CommError, backend
rank, port, spare = map(int, sys.argv[1:])
store = dist.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)
if rank == 1:
    taken = {int(name) for name in os.listdir("/proc/self/fd")}
    free = (number for number in itertools.count() if number not in taken)
    limit = next(itertools.islice(free, spare, None))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
try:
    dist.init_process_group("fastgpu", store=store, rank=rank, world_size=3,
                            timeout=timedelta(seconds=600))
    dist.all_reduce(torch.ones(4))
except CommError as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.mark.parametrize("spare", range(6, 12))
def test_every_rank_hears_of_a_shortage_during_set_up(spare: int) -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    programs = [(SET_UP, str(rank), str(store.port), str(spare)) for rank in range(3)]
    results = run_programs(programs, {}, SECONDS)
    assert not any("Traceback" in result.stderr for result in results), results
    # A rank that had finished its set-up sees only that rank 1 has left.
    expected = ["(OutOfResources|PeerLost)Error: rank 1 "] * 3
    expected[1] = "OutOfResourcesError: (rank 1 .*)?ran out of file descriptors"
    for result, wording in zip(results, expected, strict=True):
        assert re.match(wording, result.stdout), results


def test_file_sizes(ranks: Ranks) -> None:
    ranks.kill()
    ranks.run(checks.without_file_sizes, SHM)
    ranks.kill()


SOFT_LIMIT = """
import resource, torch.distributed as dist
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
dist.init_process_group("fastgpu", store=dist.HashStore(), rank=0, world_size=1)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def test_first_group_raises_the_soft_limit() -> None:
    result = subprocess.run(
        [sys.executable, "-c", SOFT_LIMIT],
        env={**os.environ, "FASTGPU_LOG": "debug"},
        capture_output=True,
        text=True,
        check=True,
    )
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert int(result.stdout) == hard
    assert "event=file_limit_raised from=256 to=" in result.stderr
