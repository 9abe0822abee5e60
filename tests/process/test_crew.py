"""Several engine threads a rank, and ranks bound to processors, in processes of their own."""

from __future__ import annotations

import os

import pytest
import torch
from tests.process import collective_checks, crew_checks, failure_checks
from tests.process.ranks import Ranks, Setting


def crew(threads: int, lanes: int, transport: str) -> Setting:
    return Setting(
        3,
        environment={
            "FASTGPU_ENGINE_THREADS": str(threads),
            "FASTGPU_LANES": str(lanes),
            "FASTGPU_TRANSPORT": transport,
        },
    )


SHM = crew(2, 2, "shm")
TCP = crew(4, 4, "tcp")
COLLECTIVES = (
    collective_checks.all_reduce,
    collective_checks.reduce,
    collective_checks.broadcast,
    collective_checks.all_gather,
    collective_checks.reduce_scatter,
    collective_checks.gather_and_scatter,
    collective_checks.all_to_all,
)


@pytest.mark.parametrize("setting", [SHM, crew(4, 4, "shm"), TCP], ids=["2", "4", "4-tcp"])
def test_collectives(ranks: Ranks, setting: Setting) -> None:
    for check in COLLECTIVES:
        ranks.run(check, setting, torch.float32)
    ranks.run(crew_checks.large_collectives, setting)


@pytest.mark.parametrize("setting", [SHM, TCP], ids=["2", "4-tcp"])
def test_failures(ranks: Ranks, setting: Setting) -> None:
    ranks.run(failure_checks.collective_timeout, setting)
    ranks.run(failure_checks.aborted, setting)
    ranks.run(failure_checks.forked_process, setting)
    ranks.run(failure_checks.mismatch, setting, "size")
    ranks.kill()
    ranks.run(failure_checks.peer_killed, setting, False, expect_killed=(2,))


def test_ranks_are_bound_to_cores(ranks: Ranks) -> None:
    """With two processors each of two ranks has one; with one they share it."""
    environment = {"FASTGPU_PIN": "core", "FASTGPU_ENGINE_THREADS": "2", "FASTGPU_LANES": "2"}
    ranks.kill()
    given = sorted(os.sched_getaffinity(0))
    try:
        ranks.run(crew_checks.bound_to_shares, Setting(2, environment=environment), given)
    finally:
        ranks.kill()
