"""Sums have the same bits on every rank; with FASTGPU_DETERMINISTIC=1 those of rank order."""

from __future__ import annotations

import pytest
from tests.process import deterministic_checks as checks
from tests.process.ranks import Ranks, Setting

# The ring, which sums in another order, must not be used, although it is asked for.
DETERMINISTIC = {"FASTGPU_DETERMINISTIC": "1", "FASTGPU_ALGORITHM": "ring"}
ALGORITHMS = ("auto", "direct", "ring", "tree", "halving", "hierarchical")


@pytest.mark.parametrize(("world", "placement"), [(3, "shm"), (3, "tcp"), (4, "mixed")])
def test_deterministic_sums_are_those_of_rank_order(
    ranks: Ranks, world: int, placement: str
) -> None:
    setting = Setting(world, environment=DETERMINISTIC)
    for lanes in (1, 3):
        ranks.run(checks.deterministic, setting, lanes, placement)


def test_deterministic_over_tcp_by_the_environment(ranks: Ranks) -> None:
    setting = Setting(3, environment={**DETERMINISTIC, "FASTGPU_TRANSPORT": "tcp"})
    ranks.run(checks.deterministic_in_the_default_group, setting)


def test_the_order_of_other_algorithms_shows(ranks: Ranks) -> None:
    ranks.run(checks.order_shows, Setting(3))


@pytest.mark.parametrize("placement", ["shm", "mixed"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_all_ranks_have_the_same_bits(ranks: Ranks, placement: str, algorithm: str) -> None:
    ranks.run(checks.same_bits_everywhere, Setting(3), 2, placement, algorithm)
