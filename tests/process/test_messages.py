"""Messages between ranks that leave early, wait long or disagree about dtype and size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.process import message_checks as checks
from tests.process.ranks import Ranks, Setting

SHM = Setting(3)
TCP = Setting(3, environment={"FASTGPU_TRANSPORT": "tcp"})
BOTH = pytest.mark.parametrize("setting", [SHM, TCP], ids=["shm", "tcp"])
CHECKS = (
    checks.sender_leaves_first,
    checks.receiver_leaves_first,
    checks.unmatched_messages,
    checks.idle_messages,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: str(check.__name__))
@BOTH
def test_message(ranks: Ranks, setting: Setting, check: Callable[[], None]) -> None:
    ranks.run(check, setting)


@pytest.mark.parametrize("by_future", [False, True], ids=["wait", "future"])
def test_late_message(ranks: Ranks, by_future: bool) -> None:
    ranks.run(checks.late_message, SHM, by_future)


FLOAT = torch.float32


@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        ((4, FLOAT), (2, torch.float64)),
        ((4, FLOAT), (4, torch.int32)),
        ((4, FLOAT), (5, FLOAT)),
        ((9000, FLOAT), (9000, torch.int32)),
    ],
    ids=["other count", "other dtype", "other size", "announced"],
)
def test_messages_of_other_elements(
    ranks: Ranks, sent: checks.Elements, wanted: checks.Elements
) -> None:
    ranks.run(checks.other_elements, SHM, sent, wanted)


@pytest.mark.parametrize("call", ["all_gather", "reduce_scatter", "all_reduce"])
def test_an_error_names_the_users_call(ranks: Ranks, call: str) -> None:
    ranks.run(checks.parts_of_a_call, SHM, call)
