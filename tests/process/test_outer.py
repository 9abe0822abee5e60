"""OuterOptimizer: ranks that train apart and agree now and then, over fastgpu and gloo."""

from __future__ import annotations

import pytest
from tests.process import outer_checks as checks
from tests.process.ranks import Ranks, Setting


@pytest.mark.parametrize("codec", [None, "bf16", "int4"])
@pytest.mark.parametrize(("backend", "world"), [("fastgpu", 2), ("fastgpu", 3), ("gloo", 3)])
def test_reference(ranks: Ranks, backend: str, world: int, codec: str | None) -> None:
    ranks.run(checks.equals_reference, Setting(world, backend=backend), codec)


@pytest.mark.parametrize(("world", "codec"), [(2, None), (2, "int4"), (3, "1bit")])
def test_state(ranks: Ranks, world: int, codec: str | None) -> None:
    ranks.run(checks.state, Setting(world), codec)


def test_feedback(ranks: Ranks) -> None:
    ranks.run(checks.feedback_matters, Setting(2))


def test_as_an_optimizer(ranks: Ranks) -> None:
    ranks.run(checks.as_an_optimizer, Setting(2))


def test_failed_outer_step(ranks: Ranks) -> None:
    ranks.run(checks.failed_outer_step, Setting(2))


@pytest.mark.parametrize("backend", ["fastgpu", "gloo"])
def test_arguments_that_differ(ranks: Ranks, backend: str) -> None:
    ranks.run(checks.arguments_that_differ, Setting(2, backend=backend))
