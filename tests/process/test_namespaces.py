"""Two hosts of two ranks each, in network namespaces: shared memory inside, TCP between."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.process import netns

SCRIPT = Path(__file__).with_name("namespace_rank.py")

reason = netns.unavailable()
pytestmark = pytest.mark.skipif(reason is not None, reason=str(reason))


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_collectives_between_two_hosts(family: str) -> None:
    with netns.hosts(2) as hosts:
        master = hosts[0].address if family == "IPv4" else hosts[0].address_v6
        outputs = netns.run_ranks(hosts, [0, 0, 1, 1], [str(SCRIPT)], {}, master=master)
    for number, output in enumerate(outputs):
        assert f"rank {number} of 4 is done" in output, output
    # One machine, but memory that cannot be mapped: the fallback is said, by the ranks it meets.
    assert "no_shared_memory" in outputs[2]
    assert "no_shared_memory" not in outputs[1]
