"""Ranks that all tests of this folder share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # for the ranks, which import their checks

from tests.process.ranks import Ranks


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Returns processes for checks to run on; see tests/process/ranks.py."""
    started = Ranks()
    yield started
    started.kill()
