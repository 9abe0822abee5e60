"""DDP, FSDP2, DTensor and the like work on this backend, and give the results of a reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.process import integration_checks as checks
from tests.process.ranks import Ranks, Setting

TWO = Setting(2)
FOUR = Setting(4)
TCP = Setting(2, environment={"FASTGPU_TRANSPORT": "tcp"})
DETAIL = Setting(2, environment={"TORCH_DISTRIBUTED_DEBUG": "DETAIL"})

ON_TWO = (
    checks.ddp,
    checks.ddp_sparse,
    checks.fsdp2,
    checks.fsdp2_in_mixed_precision,
    checks.tensor_parallel,
    checks.dtensor_redistribute,
    checks.pipeline,
    checks.sharded_tensor,
    checks.late_to_a_group,
)


def check_name(check: Callable[[], None]) -> str:
    return str(check.__name__)


@pytest.mark.parametrize("check", ON_TWO, ids=check_name)
def test_integration(ranks: Ranks, check: Callable[[], None]) -> None:
    ranks.run(check, TWO)


@pytest.mark.parametrize("name", checks.HOOKS)
def test_ddp_hook(ranks: Ranks, name: str) -> None:
    ranks.run(checks.ddp_hook, TWO, name)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_functional_collectives(ranks: Ranks, compiled: bool) -> None:
    ranks.run(checks.functional_collectives, TWO, compiled)


def test_distributed_checkpoint(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run(checks.checkpoint, TWO, str(tmp_path))


@pytest.mark.parametrize("check", [checks.ddp, checks.fsdp2], ids=check_name)
def test_integration_over_tcp(ranks: Ranks, check: Callable[[], None]) -> None:
    ranks.run(check, TCP)


@pytest.mark.parametrize(
    "check", [checks.device_mesh, checks.tensor_parallel_in_a_mesh], ids=check_name
)
def test_in_a_mesh(ranks: Ranks, check: Callable[[], None]) -> None:
    ranks.run(check, FOUR)


def test_debug_detail(ranks: Ranks) -> None:
    ranks.run(checks.debug_detail, DETAIL)
