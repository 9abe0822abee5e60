"""fastgpu_comm.DistributedDataParallel: codecs, residuals, weights, and what stays as in torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.process import ddp_agreement_checks as agreement
from tests.process import ddp_auto_checks as auto
from tests.process import ddp_checks as kept
from tests.process import ddp_coarse_checks as coarse
from tests.process import ddp_codec_checks as checks
from tests.process import ddp_interplay_checks as interplay
from tests.process import ddp_mistake_checks as mistakes
from tests.process import ddp_rounding_checks as rounding
from tests.process import ddp_weight_checks as weight
from tests.process.ddp_models import COARSE_CODECS, CODECS
from tests.process.ranks import Ranks, Setting

from fastgpu_comm.codecs import Codec

INT4_8 = Codec("int4", feedback=True, residual_bits=8)

TWO_RANKS = (
    kept.uncompressed,
    kept.buckets_in_symmetric_memory,
    kept.refusals,
    kept.differing_models,
    kept.unused,
    interplay.activation_checkpoints,
    interplay.complex_parameters,
    interplay.scaled_half_precision,
    interplay.resumed_with_a_scaler,
    interplay.scale_that_grows_and_falls,
    interplay.nothing_to_compress,
    interplay.compiled,
    interplay.several_backward_passes,
    interplay.unused_output_in_a_static_graph,
    interplay.saved_and_loaded,
    kept.joined,
    checks.policies,
    checks.state,
    checks.bucket_plans,
    checks.residuals_follow_parameters,
    checks.feedback_matters,
    checks.scaler,
    kept.joined_with_weights,
    kept.hooks_of_deleted_models,
    agreement.checkpoint_after_a_skipped_step,
    agreement.weights_of_a_refused_step,
    agreement.loss_scales_without_backward,
    agreement.loss_scales_with_a_parameter_as_output,
    agreement.scalers_that_differ_from_the_start,
    agreement.follower_alone,
    agreement.gradients_of_all_kinds,
    auto.shared_memory,
    auto.residuals_of_one_rank,
    auto.refusals,
    mistakes.arguments,
    mistakes.arguments_of_hooks,
    mistakes.arguments_of_others,
    mistakes.pickle_of_another_rank,
    mistakes.states_that_differ,
    weight.weights_that_add_up,
    weight.weights_without_backward,
    weight.evaluation_without_a_weight,
    weight.copies_before_backward,
    weight.sparse_gradients_without_samples,
    coarse.optimizers_of_one_bit,
    coarse.optimizers_that_one_bit_allows,
    rounding.another_default_dtype,
    rounding.new_bits_in_eval_mode,
    rounding.resumed_residuals_of_8_bits,
)
THREE_RANKS = (
    checks.residuals_follow_parameters,
    checks.shrunken_group,
    kept.hooks_in_a_smaller_group,
    kept.last_ranks,
    kept.joined,
    kept.joined_with_weights,
    agreement.joined_with_scaler,
    agreement.loss_scales_of_another_group,
    weight.weights_of_another_group,
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
        (2, auto.smaller_buckets),
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


@pytest.mark.parametrize("codec", ["int8", INT4_8, *COARSE_CODECS])
def test_numbers_that_are_not_finite(ranks: Ranks, codec: str | Codec) -> None:
    ranks.run(coarse.not_finite, Setting(2), codec)


@pytest.mark.parametrize("codec", [*CODECS, *COARSE_CODECS])
@pytest.mark.parametrize("way", ["ddp", "hook"])
def test_large_numbers(ranks: Ranks, way: str, codec: str) -> None:
    ranks.run(coarse.large_numbers, Setting(3), codec, way)


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


def test_models_that_differ_over_gloo(ranks: Ranks) -> None:
    ranks.run(kept.differing_models, Setting(2, backend="gloo"))


@pytest.mark.parametrize("codec", [None, "int8"])
def test_weights(ranks: Ranks, codec: str | None) -> None:
    ranks.run(checks.weights, Setting(3), codec)


@pytest.mark.parametrize("codec", [*CODECS, *COARSE_CODECS])
def test_bytes(ranks: Ranks, codec: str) -> None:
    ranks.run(checks.bytes_on_the_wire, Setting(3), codec)


@pytest.mark.parametrize("codec", [*CODECS, *COARSE_CODECS])
def test_hooks_over_gloo(ranks: Ranks, codec: str) -> None:
    ranks.run(kept.hooks_over_gloo, Setting(3, backend="gloo"), codec)


@pytest.mark.parametrize("codec", [None, "int8"])
@pytest.mark.parametrize("world", [2, 3])
def test_loss_scales(ranks: Ranks, world: int, codec: str | None) -> None:
    ranks.run(agreement.loss_scales, Setting(world), codec)


@pytest.mark.parametrize("codec", [None, "int8"])
def test_reduced_gradients(ranks: Ranks, codec: str | None) -> None:
    ranks.run(agreement.reduced_gradients, Setting(3), codec)


@pytest.mark.parametrize("backend", ["fastgpu", "gloo"])
def test_parameters(ranks: Ranks, backend: str) -> None:
    ranks.run(agreement.parameters, Setting(3, backend=backend))


@pytest.mark.parametrize(
    ("check", "world"),
    [
        (checks.state, 2),
        (checks.scaler, 2),
        (checks.residuals_follow_parameters, 2),
        (checks.residuals_follow_parameters, 3),
        (checks.shrunken_group, 3),
    ],
)
def test_residuals_of_8_bits(ranks: Ranks, check: Callable[[Codec], None], world: int) -> None:
    ranks.run(check, Setting(world), INT4_8)


def test_memory_of_residuals(ranks: Ranks) -> None:
    sizes = ranks.run(rounding.residual_bytes, Setting(2))[0]
    assert sizes == {32: 4 * 96 * 96, 8: 96 * 96 * (1 + 2 / 64)}


@pytest.mark.parametrize("codec", ["int8", "int4"])
@pytest.mark.parametrize("way", rounding.STOCHASTIC)
def test_stochastic_rounding(ranks: Ranks, way: str, codec: str) -> None:
    ranks.run(rounding.stochastic, Setting(3), way, codec)
