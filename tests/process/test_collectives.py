"""Every collective of torch.distributed, on one host over shared memory and over TCP."""

from __future__ import annotations

import pytest
import torch
from tests.process import collective_checks as checks
from tests.process.ranks import Ranks, Setting
from tests.process.reference import ALL, FP8

SETTINGS = {
    "1": Setting(1),
    "2": Setting(2),
    "3": Setting(3),
    "4": Setting(4),
    "2-tcp": Setting(2, environment={"FASTGPU_TRANSPORT": "tcp"}),
    "3-tcp": Setting(3, environment={"FASTGPU_TRANSPORT": "tcp"}),
}

BY_DTYPE = (
    checks.all_reduce,
    checks.reduce,
    checks.broadcast,
    checks.all_gather,
    checks.reduce_scatter,
    checks.gather_and_scatter,
    checks.all_to_all,
)
OF_ALL = (
    checks.every_dtype_moves,
    checks.strided_tensors,
    checks.uneven_lists,
    checks.overlapping_tensors,
    checks.coalesced,
    checks.sparse,
    checks.objects,
)


@pytest.fixture(scope="module", params=list(SETTINGS))
def setting(request: pytest.FixtureRequest) -> Setting:
    return SETTINGS[request.param]


def dtypes_of(setting: Setting) -> tuple[torch.dtype, ...]:
    """Every dtype where each collective is most itself; elsewhere one of each size."""
    if setting == SETTINGS["3"]:
        return ALL
    return (torch.float32, torch.bfloat16, torch.int64, torch.uint8)


@pytest.mark.parametrize("check", BY_DTYPE, ids=lambda check: str(check.__name__))
def test_collective(ranks: Ranks, setting: Setting, check: checks.ByDType) -> None:
    for dtype in dtypes_of(setting):
        ranks.run(check, setting, dtype)


@pytest.mark.parametrize("check", OF_ALL, ids=lambda check: str(check.__name__))
def test_every_kind_of_tensor(ranks: Ranks, setting: Setting, check: checks.Check) -> None:
    ranks.run(check, setting)


@pytest.mark.parametrize("algorithm", ["direct", "ring", "tree", "halving", "hierarchical"])
def test_all_reduce_by_every_algorithm(ranks: Ranks, algorithm: str) -> None:
    environment = {"FASTGPU_ALGORITHM": algorithm}
    ranks.run(checks.all_reduce, Setting(3, environment=environment), torch.float32)


# Which of the two is the default depends on the processor.
@pytest.mark.parametrize("single_copy", ["never", "always"])
@pytest.mark.parametrize("world", [2, 3])
def test_large_exchanges(ranks: Ranks, world: int, single_copy: str) -> None:
    environment = {"FASTGPU_SINGLE_COPY": single_copy}
    ranks.run(checks.large_exchanges, Setting(world, environment=environment))


@pytest.mark.parametrize("dtype", FP8, ids=str)
def test_float8_is_rounded_as_torch_does(ranks: Ranks, dtype: torch.dtype) -> None:
    ranks.run(checks.float8_like_torch, Setting(2), dtype)


def test_over_two_gibibytes(ranks: Ranks) -> None:
    ranks.run(checks.over_two_gibibytes, Setting(2), seconds=250)
