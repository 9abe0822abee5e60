"""States with residuals: what is refused, and what another number of ranks makes of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.process import saved_state_checks as checks
from tests.process.ranks import Ranks, Setting

TWO_RANKS = (
    checks.states_of_others,
    checks.states_that_do_not_fit,
    checks.outer_state_of_fewer_steps,
)


@pytest.mark.parametrize("check", TWO_RANKS, ids=lambda check: check.__name__)
def test_two_ranks(ranks: Ranks, check: Callable[[], None]) -> None:
    ranks.run(check, Setting(2))
