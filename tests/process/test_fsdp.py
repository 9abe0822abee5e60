"""fastgpu_comm.fsdp: fully_shard with encoded gradients and weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.process import fsdp_checks as checks
from tests.process.ranks import Ranks, Setting

WORLDS = (2, 3)
CHECKS = (
    checks.nothing_is_lost,
    checks.bytes_sent,
    checks.state,
    checks.refusals,
    checks.optimizers_of_one_bit,
    checks.unused_parameters,
)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_collectives(ranks: Ranks, world: int, check: Callable[[], None]) -> None:
    ranks.run(check, Setting(world))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("codec", ["bf16", "int8", "int4"])
def test_gradients(ranks: Ranks, world: int, codec: str) -> None:
    ranks.run(checks.gradients, Setting(world), codec)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("codec", ["bf16", "int8", "int4"])
def test_weights(ranks: Ranks, world: int, codec: str) -> None:
    ranks.run(checks.weights, Setting(world), codec)


def test_losses(ranks: Ranks) -> None:
    losses = ranks.run(checks.losses, Setting(2))[0]
    for loss in losses.values():
        assert loss == pytest.approx(losses["none"], rel=0.05), losses


def test_gloo(ranks: Ranks) -> None:
    ranks.run(checks.nothing_is_lost, Setting(2, backend="gloo"))
