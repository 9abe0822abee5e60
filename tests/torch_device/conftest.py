"""Processes that load the device, because a process cannot unload it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # for the ranks, which import their checks

from tests.process.ranks import Ranks


@pytest.fixture(scope="session")
def device_ranks() -> Iterator[Ranks]:
    """Returns processes that may load the device "pretended"."""
    started = Ranks()
    yield started
    started.kill()
