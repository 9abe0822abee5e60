"""Functions of backends that torch 2.14 and 2.15 call; most work with every version."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.process import newer_torch_checks as checks
from tests.process.ranks import Ranks, Setting
from tests.process.reference import TORCH_VERSION


def since(minor: int, check: Callable[[], None]) -> object:
    """Returns the check as a parameter that older versions of torch skip."""
    older = pytest.mark.skipif((2, minor) > TORCH_VERSION, reason=f"torch 2.{minor} added it")
    return pytest.param(check, marks=older)


CHECKS = (
    checks.time_estimates,
    checks.torchs_private_timeout,
    checks.options_clone,
    checks.is_initialized,
    since(14, checks.options_of_a_split),
    since(14, checks.work_timeouts),
    since(14, checks.single_names),
    since(15, checks.flight_recorder),
)
BREAKING = (checks.extra_time, checks.abort_hooks, checks.failure_hooks)


def check_name(check: Callable[[], None]) -> str:
    return str(check.__name__)


@pytest.mark.parametrize("check", CHECKS, ids=check_name)
def test_newer_torch(ranks: Ranks, check: Callable[[], None]) -> None:
    ranks.run(check, Setting(2))


@pytest.mark.parametrize("check", BREAKING, ids=check_name)
def test_that_breaks_its_group(ranks: Ranks, check: Callable[[], None]) -> None:
    ranks.run(check, Setting(2))
    ranks.kill()
