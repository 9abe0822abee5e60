"""Messages, works, futures, groups, and the names that the package adds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from tests.process import group_checks as checks
from tests.process.ranks import Ranks, Setting

SETTINGS = {
    "3": Setting(3),
    "3-tcp": Setting(3, environment={"FASTGPU_TRANSPORT": "tcp"}),
}
CHECKS = (
    checks.messages,
    checks.batches,
    checks.messages_beside_collectives,
    checks.many_outstanding,
    checks.futures,
    checks.future_values_like_gloo,
    checks.profiler,
    checks.subgroups,
    checks.groups_in_threads,
    checks.sequence_numbers,
    checks.symmetric_memory,
    checks.statistics,
    checks.refused_arguments,
    checks.options_are_read,
)


@pytest.mark.parametrize("setting", list(SETTINGS.values()), ids=list(SETTINGS))
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: str(check.__name__))
def test_group(ranks: Ranks, setting: Setting, check: Callable[[], None]) -> None:
    ranks.run(check, setting)


def test_tensors_elsewhere_are_refused(ranks: Ranks) -> None:
    ranks.run(checks.tensors_elsewhere, Setting(2))


def test_split_group(ranks: Ranks) -> None:
    ranks.end_group()
    ranks.run(checks.splits, Setting(3))


def test_group_is_made_again_on_the_same_store(ranks: Ranks) -> None:
    ranks.run(checks.group_again, Setting(2))


def test_future_of_an_aborted_operation(ranks: Ranks) -> None:
    ranks.run(checks.future_failures, Setting(2))
    ranks.kill()


ANOTHER_TORCH = """
import warnings, torch
torch.__version__ = '2.99.0'
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fastgpu_comm
assert ["torch 2.99.0 is installed" in str(warning.message) for warning in caught] == [True]
import torch.distributed as dist
assert not dist.is_backend_available("fastgpu")
assert not dist.is_backend_available("cpu:fastgpu")
try:
    dist.init_process_group("fastgpu", store=dist.HashStore(), rank=0, world_size=1)
except ImportError as error:
    assert "--force-reinstall --no-deps .`" in str(error), error
else:
    raise SystemExit("a group was made")
"""


def test_another_torch_makes_the_backend_unavailable() -> None:
    environment = {**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    subprocess.run([sys.executable, "-c", ANOTHER_TORCH], env=environment, check=True)
