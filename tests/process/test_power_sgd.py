"""PowerSGD as a communication hook, on several buckets, over fastgpu and gloo."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.process import power_sgd_checks as checks
from tests.process.ranks import Ranks, Setting

ALWAYS = (checks.nothing_is_lost, checks.low_rank)
ON_TWO_RANKS = (
    checks.state,
    checks.not_finite,
    checks.too_large,
    checks.follows_parameters,
    checks.joined,
    checks.large_seed,
    checks.sparse,
    checks.sparse_in_a_static_graph,
)


@pytest.mark.parametrize("check", ALWAYS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("backend", ["fastgpu", "gloo"])
def test_any_group(ranks: Ranks, backend: str, world: int, check: Callable[[], None]) -> None:
    ranks.run(check, Setting(world, backend=backend))


@pytest.mark.parametrize("check", ON_TWO_RANKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("backend", ["fastgpu", "gloo"])
def test_two_ranks(ranks: Ranks, backend: str, check: Callable[[], None]) -> None:
    ranks.run(check, Setting(2, backend=backend))


def test_losses(ranks: Ranks) -> None:
    uncompressed, compressed = ranks.run(checks.losses, Setting(2))[0]
    assert compressed == pytest.approx(uncompressed, rel=0.1)
