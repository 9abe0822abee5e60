"""Tensors on GPUs through torch.distributed, on a pretended device: order, lifetime, failures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.process import device_checks as checks
from tests.process import device_failure_checks as failures
from tests.process import device_graph_checks as graphs
from tests.process import device_memory_checks as memory
from tests.process import device_shard_checks as shards
from tests.process.ranks import Ranks, Setting

SHM = Setting(2)
TCP = Setting(2, environment={"FASTGPU_TRANSPORT": "tcp"})
HOST = {"FASTGPU_GPU_ENGINE": "host"}
LANES = {"FASTGPU_GPU_ENGINE": "lanes"}


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    """Returns ranks of this file's own: a process that has loaded the device keeps it."""
    started = Ranks()
    yield started
    started.kill()


@pytest.mark.parametrize(
    "check",
    [
        checks.messages,
        memory.lifetimes,
        memory.symmetric_memory,
        shards.sharded_training,
        shards.dtensors,
        checks.encoded_sums,
        checks.benchmark,
        failures.bad_arguments,
        failures.unknown_codecs,
    ],
    ids=lambda check: check.__name__,
)
def test_device(ranks: Ranks, check: Callable[[], None]) -> None:
    ranks.run(check, SHM)


@pytest.mark.parametrize("engine", [HOST, LANES], ids=["host", "lanes"])
@pytest.mark.parametrize(
    "check",
    [
        checks.order_of_streams,
        checks.order_of_groups,
        checks.futures,
        failures.mismatch,
        failures.time_out,
        failures.frozen_rank,
    ],
    ids=lambda check: check.__name__,
)
def test_engine(ranks: Ranks, check: Callable[[], None], engine: dict[str, str]) -> None:
    ranks.run(check, Setting(2, environment=engine))


def test_destroyed_groups(ranks: Ranks) -> None:
    ranks.run(memory.destroyed_groups, Setting(2, environment=LANES))


@pytest.mark.parametrize(
    "check",
    [graphs.captured_calls, graphs.memory_dropped_in_a_capture],
    ids=lambda check: check.__name__,
)
def test_graphs(ranks: Ranks, check: Callable[[], None]) -> None:
    ranks.run(check, Setting(2, environment=LANES))


@pytest.mark.parametrize(
    "setting", [Setting(3), TCP, Setting(3, environment=LANES)], ids=["shm", "tcp", "lanes"]
)
def test_collectives(ranks: Ranks, setting: Setting) -> None:
    ranks.run(checks.collectives, setting)


@pytest.mark.parametrize("ours", [False, True], ids=["torch", "ours"])
@pytest.mark.parametrize("symmetric", [False, True], ids=["plain", "symmetric"])
def test_training(ranks: Ranks, ours: bool, symmetric: bool) -> None:
    setting = Setting(2, environment={"DDP_DISABLE_COMM_MEM": "0" if symmetric else "1"})
    ranks.run(checks.training, setting, ours)


@pytest.mark.parametrize(
    ("codec", "rounding", "weighted"),
    [
        ("int8", "nearest", None),
        ("int8", "stochastic", "mean"),
        ("int4", "nearest", "mean"),
        ("fp16", "nearest", None),
    ],
)
def test_encoded_training(ranks: Ranks, codec: str, rounding: str, weighted: str | None) -> None:
    ranks.run(checks.encoded_training, SHM, codec, rounding, weighted)


def test_loaded_residuals(ranks: Ranks) -> None:
    ranks.run(checks.loaded_residuals, SHM)


@pytest.mark.parametrize("engine", [HOST, LANES], ids=["host", "lanes"])
def test_lost_rank(ranks: Ranks, engine: dict[str, str]) -> None:
    ranks.run(failures.lost_rank, Setting(3, environment=engine), expect_killed=(2,))
