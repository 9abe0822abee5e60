"""fastgpu_comm.DistributedDataParallel: codecs, residuals, weights, and what stays as in torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.process import ddp_auto_checks as auto
from tests.process import ddp_checks as kept
from tests.process import ddp_coarse_checks as coarse
from tests.process import ddp_codec_checks as checks
from tests.process.ddp_models import COARSE_CODECS, CODECS
from tests.process.ranks import Ranks, Setting

TWO_RANKS = (
    kept.uncompressed,
    kept.buckets_in_symmetric_memory,
    kept.refusals,
    kept.differing_models,
    kept.interplay,
    kept.unused,
    kept.joined,
    checks.policies,
    checks.state,
    checks.bucket_plans,
    checks.residuals_follow_parameters,
    checks.feedback_matters,
    checks.scaler,
    kept.joined_with_weights,
    auto.shared_memory,
    auto.refusals,
)
THREE_RANKS = (
    checks.residuals_follow_parameters,
    checks.shrunken_group,
    kept.last_ranks,
    kept.joined,
    kept.joined_with_weights,
)


@pytest.mark.parametrize("check", TWO_RANKS, ids=lambda check: check.__name__)
def test_two_ranks(ranks: Ranks, check: Callable[[], None]) -> None:
    ranks.run(check, Setting(2))


@pytest.mark.parametrize(
    ("world", "check"),
    [
        (2, auto.searches),
        (2, auto.residuals_are_delivered),
        (2, auto.skipped_delivery),
        (2, auto.saved_and_copied),
        (3, auto.shrunken),
        (3, auto.joined),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_auto(ranks: Ranks, world: int, check: Callable[[], None]) -> None:
    ranks.run(check, Setting(world, environment={"FASTGPU_TRANSPORT": "tcp"}))


@pytest.mark.parametrize("codec", CODECS)
def test_modes(ranks: Ranks, codec: str) -> None:
    ranks.run(kept.modes, Setting(2), codec)


def test_losses(ranks: Ranks) -> None:
    losses = ranks.run(checks.losses, Setting(2))[0]
    for codec, loss in losses.items():
        assert loss == pytest.approx(losses["None"], rel=0.005), codec


@pytest.mark.parametrize("codec", ["int8", *COARSE_CODECS])
def test_numbers_that_are_not_finite(ranks: Ranks, codec: str) -> None:
    ranks.run(coarse.not_finite, Setting(2), codec)


@pytest.mark.parametrize("codec", COARSE_CODECS)
@pytest.mark.parametrize("world", [2, 8])
def test_coarse_codecs(ranks: Ranks, world: int, codec: str) -> None:
    ranks.run(coarse.sums, Setting(world), codec)


def test_coarse_losses(ranks: Ranks) -> None:
    losses = ranks.run(coarse.losses, Setting(2))[0]
    assert losses["topk"] < 1.15 * losses["None"]
    assert losses["1bit"] < 1.05 * losses["None"]


@pytest.mark.parametrize("check", THREE_RANKS, ids=lambda check: check.__name__)
def test_three_ranks(ranks: Ranks, check: Callable[[], None]) -> None:
    ranks.run(check, Setting(3))


@pytest.mark.parametrize("codec", [None, "int8"])
def test_weights(ranks: Ranks, codec: str | None) -> None:
    ranks.run(checks.weights, Setting(3), codec)


@pytest.mark.parametrize("codec", [*CODECS, *COARSE_CODECS])
def test_bytes(ranks: Ranks, codec: str) -> None:
    ranks.run(checks.bytes_on_the_wire, Setting(3), codec)


@pytest.mark.parametrize("codec", [*CODECS, *COARSE_CODECS])
def test_hooks_over_gloo(ranks: Ranks, codec: str) -> None:
    ranks.run(kept.hooks_over_gloo, Setting(3, backend="gloo"), codec)
