"""Tests that a state that does not fit is refused, and that others load on more or fewer ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.process import saved_state_checks as checks
from tests.process import unfit_state_checks as unfit
from tests.process.ranks import Ranks, Setting

TWO_RANKS = (
    checks.states_of_others,
    checks.states_that_do_not_fit,
    unfit.states_of_other_classes,
    unfit.residuals_that_are_not_finite,
    unfit.outer_state_of_another_optimizer,
    checks.outer_state_of_fewer_steps,
    checks.states_for_ranks,
)


@pytest.mark.parametrize("check", TWO_RANKS, ids=lambda check: check.__name__)
def test_two_ranks(ranks: Ranks, check: Callable[[], None]) -> None:
    ranks.run(check, Setting(2))


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 2), (2, 1)])
@pytest.mark.parametrize("kind", checks.KINDS)
def test_other_number_of_ranks(ranks: Ranks, kind: str, before: int, after: int) -> None:
    ranks.run(checks.other_number_of_ranks, Setting(3), kind, before, after)


def test_outer_optimizer_with_other_number_of_ranks(ranks: Ranks) -> None:
    ranks.run(checks.outer_with_other_number_of_ranks, Setting(3))


def test_trainer_with_more_ranks(ranks: Ranks, tmp_path: Path) -> None:
    losses = ranks.run(checks.trainer_with_more_ranks, Setting(3), tmp_path)[0]
    assert len(losses) == 7
