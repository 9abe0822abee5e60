"""The torch device "pretended": equal to the CPU, later than the call, and in stream order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.process.ranks import Ranks, Setting
from tests.torch_device import pretended
from tests.torch_device import pretended_checks as checks

ALONE = Setting(1, "gloo", {"PRETENDED_SEED": "7", "PRETENDED_DELAY_US": "200"})
CHECKS = (
    checks.creation_and_copies,
    checks.views_and_storage,
    checks.operators_equal_the_cpu,
    checks.training_equals_the_cpu,
    checks.streams_without_an_event,
    checks.streams_with_an_event,
    checks.stream_that_is_current,
    checks.copies_wait_or_do_not,
    checks.devices_are_ordered_by_copies,
    checks.events_and_queries,
    checks.memory_freed_with_work_pending,
    checks.memory_used_by_another_stream,
    checks.pinned_memory,
    checks.temporary_tensors_while_waiting,
    checks.late_failure_is_raised,
    checks.accelerator_and_runtime,
    checks.torch_ddp,
    checks.torch_fsdp,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: str(check.__name__))
def test_device(device_ranks: Ranks, check: Callable[[], None]) -> None:
    device_ranks.run(check, ALONE)


def test_a_missing_module_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PRETENDED_MODULE", raising=False)
    monkeypatch.setattr(pretended, "BUILT", tmp_path)
    with pytest.raises(FileNotFoundError, match="make torch-device"):
        pretended.find_module()
