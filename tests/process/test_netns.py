"""Hosts made of network namespaces reach each other, and nothing is left of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from tests.process import netns

SERVER = """
import socket, sys
with socket.create_server((sys.argv[1], 0), family=int(sys.argv[2])) as server:
    print(server.getsockname()[1], flush=True)
    connection, _ = server.accept()
    with connection:
        received = 0
        while data := connection.recv(1 << 16):
            received += len(data)
        print(received)
"""

CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as connection:
    connection.sendall(bytes(int(sys.argv[3])))
"""

needs_namespaces = pytest.mark.skipif(
    netns.unavailable() is not None, reason=str(netns.unavailable())
)
needs_shaping = pytest.mark.skipif(
    netns.unavailable(shaped=True) is not None, reason=str(netns.unavailable(shaped=True))
)


def transfer(source: netns.Host, target: netns.Host, size_bytes: int, *, v6: bool) -> float:
    """Sends `size_bytes` over TCP; the seconds it took."""
    address, family = (target.address_v6, "10") if v6 else (target.address, "2")
    server = subprocess.Popen(
        target.command([sys.executable, "-c", SERVER, address, family]),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        begin = time.monotonic()
        subprocess.run(
            source.command([sys.executable, "-c", CLIENT, address, port, str(size_bytes)]),
            check=True,
            timeout=60,
        )
        assert int(server.stdout.readline()) == size_bytes
        return time.monotonic() - begin
    finally:
        server.kill()
        server.communicate()


def existing() -> list[str]:
    """The names of this process's namespaces."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split() if name.startswith(f"fastgpu-{os.getpid()}-")]


@needs_namespaces
def test_every_host_reaches_every_other() -> None:
    with netns.hosts(3) as (first, second, third):
        transfer(first, second, 100_000, v6=False)
        transfer(third, first, 100_000, v6=True)
        # A host of its own: the machine's interfaces are not there.
        links = subprocess.run(
            first.command(["ip", "-o", "link"]), capture_output=True, text=True, check=True
        )
        assert len(links.stdout.splitlines()) == 2


@needs_shaping
def test_a_rate_holds() -> None:
    with netns.hosts(2, rate="40mbit") as (first, second):
        # 2.5 MB at 5 MB/s, of which the burst of 256 KB is free.
        assert transfer(first, second, 2_500_000, v6=False) > 0.4


@needs_namespaces
def test_nothing_is_left() -> None:
    with netns.hosts(2) as made:
        assert {host.name for host in made} < set(existing())
    assert existing() == []

    def fail_within() -> None:
        with netns.hosts(1):
            raise KeyError("within")

    with pytest.raises(KeyError, match="within"):
        fail_within()
    assert existing() == []
    with pytest.raises(netns.NetnsError, match="tc -n fastgpu-"), netns.hosts(1, rate="fast"):
        pass
    assert existing() == []


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    reason = netns.unavailable.__wrapped__(shaped=True)
    assert reason is not None
    assert "ip and tc not found" in reason


def test_a_count_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="0 hosts"), netns.hosts(0):
        pass
