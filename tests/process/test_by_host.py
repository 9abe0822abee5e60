"""Encoded all_reduces over hosts of several ranks, in network namespaces.

Float32 inside a host, encoded bytes between hosts, and error feedback that loses nothing.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.process import netns

SCRIPT = Path(__file__).with_name("by_host_rank.py")

reason = netns.unavailable()
pytestmark = pytest.mark.skipif(reason is not None, reason=str(reason))


@pytest.mark.parametrize(("host_of", "arguments"), [("001", ["train"]), ("0011", [])])
def test_encoded_all_reduce(host_of: str, arguments: list[str]) -> None:
    with netns.hosts(len(set(host_of))) as hosts:
        outputs = netns.run_ranks(
            hosts,
            [int(host) for host in host_of],
            [str(SCRIPT), host_of, *arguments],
            {"FASTGPU_ALGORITHM": "hierarchical"},
        )
    for rank, output in enumerate(outputs):
        assert f"rank {rank} is done" in output, output
