"""What torch builds on a backend works on this one, with the results of a reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.process import integration_checks as checks
from tests.process.ranks import Ranks, Setting

TWO = Setting(2)
TCP = Setting(2, environment={"FASTGPU_TRANSPORT": "tcp"})

CHECKS = (
    checks.ddp,
    checks.ddp_hooks,
    checks.ddp_sparse,
    checks.fsdp2,
    checks.tensor_parallel,
    checks.dtensor_redistribute,
    checks.pipeline,
    checks.functional_collectives,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: str(check.__name__))
def test_integration(ranks: Ranks, check: Callable[[], None]) -> None:
    ranks.run(check, TWO)


def test_distributed_checkpoint(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run(checks.checkpoint, TWO, str(tmp_path))


@pytest.mark.parametrize("check", [checks.ddp, checks.fsdp2], ids=lambda check: str(check.__name__))
def test_integration_over_tcp(ranks: Ranks, check: Callable[[], None]) -> None:
    ranks.run(check, TCP)


def test_device_mesh(ranks: Ranks) -> None:
    ranks.run(checks.device_mesh, Setting(4))


def test_debug_detail(ranks: Ranks) -> None:
    environment = {"TORCH_DISTRIBUTED_DEBUG": "DETAIL"}
    ranks.run(checks.debug_detail, Setting(2, environment=environment))
