"""Hosts in network namespaces: shared memory inside, TCP between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.process import netns

SCRIPT = Path(__file__).with_name("namespace_rank.py")
LINK_SCRIPT = Path(__file__).with_name("ddp_link_rank.py")

reason = netns.unavailable()
pytestmark = pytest.mark.skipif(reason is not None, reason=str(reason))


@pytest.mark.parametrize(("family", "arguments"), [("IPv4", []), ("IPv6", ["few"])])
def test_collectives_between_two_hosts(family: str, arguments: list[str]) -> None:
    with netns.hosts(2) as hosts:
        master = hosts[0].address if family == "IPv4" else hosts[0].address_v6
        program = [str(SCRIPT), *arguments]
        outputs = netns.run_ranks(hosts, [0, 0, 1, 1], program, {}, master=master)
    for number, output in enumerate(outputs):
        assert f"rank {number} of 4 is done" in output, output
    # One machine, but memory that cannot be mapped: the fallback is said, by the ranks it meets.
    assert "no_shared_memory" in outputs[2]
    assert "no_shared_memory" not in outputs[1]


@pytest.mark.skipif(netns.unavailable(shaped=True) is not None, reason="tc cannot limit a rate")
def test_a_slow_link_gets_a_codec() -> None:
    """codec="auto" between two hosts at 100 Mbit/s: 2 MB take 0.17 s uncompressed."""
    with netns.hosts(2, rate="100mbit", burst="128kb") as hosts:
        outputs = netns.run_ranks(hosts, [0, 1], [str(LINK_SCRIPT)], {})
    (line,) = [line for line in outputs[0].splitlines() if line.startswith("@@")]
    choice = json.loads(line.removeprefix("@@"))
    assert choice["settled"]
    (bucket,) = choice["buckets"]
    assert bucket["codec"] in ("int8", "int4")
    assert choice["pass_s"][bucket["codec"]] < 0.5 * choice["pass_s"]["none"]
    assert 0.5 * 12.5e6 < bucket["link_bytes_per_s"] < 1.1 * 12.5e6
    assert bucket["link_bytes_per_s"] < choice["break_even_bytes_per_s"][bucket["codec"]]
