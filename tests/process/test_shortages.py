"""A rank that runs out of a resource says so, and its peers hear it, instead of a lost rank."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest
from tests.process import shortage_checks as checks
from tests.process.ranks import Ranks, Setting

SHM = Setting(3)
TCP = Setting(3, environment={"FASTGPU_TRANSPORT": "tcp"})
BOTH = pytest.mark.parametrize("setting", [SHM, TCP], ids=["shm", "tcp"])


@BOTH
@pytest.mark.parametrize("spare", [0, 1])
def test_descriptors(ranks: Ranks, setting: Setting, spare: int) -> None:
    ranks.run(checks.without_descriptors, setting, spare)
    ranks.kill()


@pytest.mark.parametrize(("setting", "per_peer"), [(SHM, 0), (TCP, 2)], ids=["shm", "tcp"])
def test_descriptors_of_groups(ranks: Ranks, setting: Setting, per_peer: int) -> None:
    ranks.run(checks.descriptors_of_groups, setting, per_peer)


def test_file_sizes(ranks: Ranks) -> None:
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
