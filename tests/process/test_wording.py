"""Names and texts for users, for torch's own tests and for other programs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.process import wording_checks as checks
from tests.process.ranks import Ranks, Setting

CHECKS = (
    checks.profiler_names,
    checks.user_names,
    checks.no_time_at_all,
    checks.monitored_barrier_texts,
    checks.ranks_of_a_part,
    checks.refused_on_every_rank,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: str(check.__name__))
def test_wording(ranks: Ranks, check: Callable[[], None]) -> None:
    ranks.run(check, Setting(4 if check is checks.monitored_barrier_texts else 3))
