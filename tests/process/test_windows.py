"""Windows of torch 2.14 and later, in each way that a put can take."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.process import window_checks as checks
from tests.process.ranks import Ranks, Setting
from tests.process.reference import TORCH_VERSION

pytestmark = pytest.mark.skipif(TORCH_VERSION < (2, 14), reason="torch 2.14 added windows")

TCP = {"FASTGPU_TRANSPORT": "tcp"}
TRANSPORTS = {"shm": {}, "tcp": TCP}

EITHER_MEMORY = (checks.all_to_all, checks.random_puts)
CHECKS = (
    checks.signals_are_counted,
    checks.windows_do_not_mix,
    checks.sources,
    checks.registered_again,
    checks.bad_arguments,
    checks.bad_registration,
    checks.estimated,
    checks.other_threads,
)


def check_name(check: Callable[..., None]) -> str:
    return str(check.__name__)


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "private"])
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("check", EITHER_MEMORY, ids=check_name)
def test_puts(ranks: Ranks, check: Callable[[bool], None], transport: str, symmetric: bool) -> None:
    ranks.run(check, Setting(3, environment=TRANSPORTS[transport]), symmetric)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("check", CHECKS, ids=check_name)
def test_windows(ranks: Ranks, check: Callable[[], None], transport: str) -> None:
    ranks.run(check, Setting(2, environment=TRANSPORTS[transport]))


def test_mapped(ranks: Ranks) -> None:
    ranks.run(checks.mapped, Setting(3))


@pytest.mark.parametrize("reason", ["symmetric memory", "TCP"])
def test_not_mapped(ranks: Ranks, reason: str) -> None:
    ranks.run(checks.not_mapped, Setting(2, environment=TCP if reason == "TCP" else {}), reason)


def test_dropped(ranks: Ranks) -> None:
    ranks.run(checks.dropped, Setting(2))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_time_out(ranks: Ranks, transport: str) -> None:
    ranks.run(checks.times_out, Setting(2, environment=TRANSPORTS[transport]))
    ranks.kill()


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "private"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_lost_peer(ranks: Ranks, transport: str, symmetric: bool) -> None:
    setting = Setting(3, environment=TRANSPORTS[transport])
    ranks.run(checks.killed, setting, symmetric, expect_killed=(1,))
