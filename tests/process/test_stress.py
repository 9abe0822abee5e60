"""Many groups, threads, operations and ranks, on fewer cores than there are of any."""

from __future__ import annotations

import pytest
from tests.process import stress_checks as checks
from tests.process.ranks import Ranks, Setting

TCP = {"FASTGPU_TRANSPORT": "tcp"}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_groups_in_threads(ranks: Ranks, seed: int) -> None:
    ranks.run(checks.groups_in_threads, Setting(4), seed, 3, 80)


def test_groups_in_threads_over_tcp(ranks: Ranks) -> None:
    ranks.run(checks.groups_in_threads, Setting(4, environment=TCP), 4, 3, 25)


def test_a_thousand_outstanding(ranks: Ranks) -> None:
    ranks.run(checks.thousand_outstanding, Setting(2))


@pytest.mark.parametrize("environment", [{}, TCP], ids=["shm", "tcp"])
def test_sixty_four_ranks(environment: dict[str, str]) -> None:
    many = Ranks()
    try:
        many.run(checks.one_all_reduce, Setting(64, environment=environment))
    finally:
        many.kill()
