"""Every failure raises a typed error on every rank, naming the operation and the rank at fault."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.process import failure_checks as checks
from tests.process.programs import run_programs
from tests.process.ranks import Ranks, Setting

SECONDS = 200  # for one program, on a busy machine
SHM = Setting(3)
TCP = Setting(3, environment={"FASTGPU_TRANSPORT": "tcp"})
BOTH = pytest.mark.parametrize("setting", [SHM, TCP], ids=["shm", "tcp"])


@BOTH
@pytest.mark.parametrize("kind", ["size", "dtype", "reduce op", "root", "collective"])
def test_mismatch_names_both_calls(ranks: Ranks, setting: Setting, kind: str) -> None:
    ranks.run(checks.mismatch, setting, kind)
    ranks.kill()


def test_mismatch_in_a_functional_collective(ranks: Ranks) -> None:
    ranks.run(checks.functional_collective_fails, SHM)
    ranks.kill()


KEEP_THE_GROUP = (
    checks.sparse_mismatch,
    checks.collective_timeout,
    checks.wait_with_timeout,
    checks.set_timeout,
    checks.different_options,
    checks.aborted,
    checks.destroyed_while_pending,
    checks.bad_environment,
    checks.uneven_parts_of_another_size,
    checks.own_part_of_another_size,
    checks.any_source_outlives_a_leaver,
    checks.forked_process,
)


@pytest.mark.parametrize("check", KEEP_THE_GROUP, ids=lambda check: str(check.__name__))
@BOTH
def test_failure(ranks: Ranks, setting: Setting, check: Callable[[], None]) -> None:
    ranks.run(check, setting)


@BOTH
@pytest.mark.parametrize("with_futures", [False, True], ids=["wait", "future"])
def test_killed_peer_is_named(ranks: Ranks, setting: Setting, with_futures: bool) -> None:
    ranks.run(checks.peer_killed, setting, with_futures, expect_killed=(2,))


@BOTH
def test_killed_peer_is_named_while_its_child_lives(ranks: Ranks, setting: Setting) -> None:
    ranks.run(checks.peer_killed, setting, False, True, expect_killed=(2,))


@BOTH
@pytest.mark.parametrize("kind", ["large send", "receive", "receive from any", "collective"])
def test_message_to_killed_peer(ranks: Ranks, setting: Setting, kind: str) -> None:
    ranks.run(checks.message_to_killed_peer, setting, kind, expect_killed=(2,))


def test_killed_peer_surfaces_in_backward(ranks: Ranks) -> None:
    ranks.run(checks.backward_of_ddp_fails, SHM, expect_killed=(2,))


@pytest.mark.parametrize("missing", [(1, 2), (2,), (0,)], ids=str)
def test_monitored_barrier_names_who_is_missing(ranks: Ranks, missing: tuple[int, ...]) -> None:
    ranks.run(checks.monitored_barrier, SHM, missing)


ABORTED_ALONE = """
import torch, torch.distributed as dist
dist.init_process_group("fastgpu", store=dist.HashStore(), rank=0, world_size=1)
dist.group.WORLD.abort()
"""


@pytest.mark.parametrize(("level", "shown"), [("info", True), ("warn", False)])
def test_log_level(level: str, shown: bool) -> None:
    (ended,) = run_programs([[ABORTED_ALONE]], {"FASTGPU_LOG": level}, SECONDS)
    assert ended.status == 0, ended.stderr
    assert ("event=group_failed" in ended.stderr) == shown, ended.stderr
