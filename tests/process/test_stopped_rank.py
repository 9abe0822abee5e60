"""A rank that is stopped is named in time, and does no harm when it goes on."""

from __future__ import annotations

import pytest
from tests.process import stop_checks as checks
from tests.process.ranks import Ranks, Setting

SHM = Setting(3)
TCP = Setting(3, environment={"FASTGPU_TRANSPORT": "tcp"})


@pytest.mark.parametrize(
    ("setting", "count", "symmetric", "within"),
    [
        pytest.param(SHM, 2, False, False, id="shm-small"),
        pytest.param(SHM, 3_000_001, False, True, id="shm-large"),
        pytest.param(SHM, 3_000_001, True, True, id="shm-symmetric"),
        pytest.param(TCP, 2, False, False, id="tcp-small"),
        pytest.param(TCP, 2, False, True, id="tcp-small-within"),
        pytest.param(TCP, 3_000_001, False, False, id="tcp-large"),
    ],
)
def test_stopped_rank(
    ranks: Ranks, setting: Setting, count: int, symmetric: bool, within: bool
) -> None:
    ranks.run(checks.stopped_rank, setting, count, symmetric, within)
