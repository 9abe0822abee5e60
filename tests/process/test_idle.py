"""An idle rank burns no core, whether nothing is pending, calls are, or a thread waits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.process import idle_checks as checks
from tests.process.ranks import Ranks, Setting

CHECKS = (checks.after_use, checks.with_pending_calls, checks.while_waiting)
# A rank that waits spins first if there is a core for each rank of its machine.
SHM = Setting(2)
TCP = Setting(3, environment={"FASTGPU_TRANSPORT": "tcp"})


@pytest.mark.parametrize("setting", [SHM, TCP], ids=["shm", "tcp"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: str(check.__name__))
def test_an_idle_rank_burns_no_core(
    ranks: Ranks, setting: Setting, check: Callable[[], None]
) -> None:
    ranks.run(check, setting)
