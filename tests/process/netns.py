"""Network namespaces: hosts of their own on one machine, two with a cable, more with a bridge.

Only the namespaces are made and removed: interfaces, addresses and the bridge live inside them, so
nothing of the machine's own network is touched. Needs root, or the capabilities that `ip netns`
and `ip link` need.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

INTERFACE = "eth0"
MAX_HOSTS = 250

_serial = itertools.count()


class NetnsError(RuntimeError):
    """An `ip` or `tc` command failed; the message has the command and what it said."""


@dataclass(frozen=True)
class Host:
    """A network namespace with one interface, `eth0`, beside loopback."""

    name: str
    address: str
    address_v6: str

    def command(self, argv: Sequence[str]) -> list[str]:
        """Returns the command line that runs `argv` in this namespace."""
        return ["ip", "netns", "exec", self.name, *argv]


def _run(*argv: str) -> None:
    finished = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    if finished.returncode != 0:
        raise NetnsError(f"{' '.join(argv)}: {(finished.stderr or finished.stdout).strip()}")


def _lay_cable(end: tuple[str, str], other: tuple[str, str]) -> None:
    """Joins two namespaces; an end is a namespace and the interface it gets there."""
    (name, interface), (other_name, other_interface) = end, other
    peer = ["peer", "name", other_interface, "netns", other_name]
    _run("ip", "link", "add", interface, "netns", name, "type", "veth", *peer)


def _lay_cables(hosts: Sequence[Host], hub: str) -> None:
    """Connects two hosts by a cable, or any other number of hosts to a bridge."""
    if len(hosts) == 2:
        _lay_cable((hosts[0].name, INTERFACE), (hosts[1].name, INTERFACE))
        return
    _run("ip", "-n", hub, "link", "add", "bridge", "type", "bridge")
    _run("ip", "-n", hub, "link", "set", "bridge", "up")
    for index, host in enumerate(hosts):
        _lay_cable((host.name, INTERFACE), (hub, f"port{index}"))
        _run("ip", "-n", hub, "link", "set", f"port{index}", "master", "bridge", "up")


def _set_up(host: Host, rate: str | None, burst: str) -> None:
    _run("ip", "-n", host.name, "link", "set", "lo", "up")
    _run("ip", "-n", host.name, "address", "add", f"{host.address}/24", "dev", INTERFACE)
    # nodad: the address is ours at once, not after a second of asking who else has it.
    v6 = f"{host.address_v6}/64"
    _run("ip", "-n", host.name, "-6", "address", "add", v6, "dev", INTERFACE, "nodad")
    _run("ip", "-n", host.name, "link", "set", INTERFACE, "up")
    if rate is not None:
        shape = ["tbf", "rate", rate, "burst", burst, "latency", "100ms"]
        _run("tc", "-n", host.name, "qdisc", "add", "dev", INTERFACE, "root", *shape)


@contextlib.contextmanager
def hosts(count: int, *, rate: str | None = None, burst: str = "256kb") -> Iterator[list[Host]]:
    """Makes `count` namespaces on one network, and removes them afterwards.

    Args:
        count: How many hosts, 1 to 250.
        rate: The rate at which a host may send, as `tc` writes it ("100mbit"); None: no limit.
        burst: The bytes that a host may send above the rate at once; a fast link needs more.

    Yields:
        The hosts, with addresses in 10.231.0.0/24 and fd00:231::/64.

    Raises:
        NetnsError: A namespace could not be made. Those made before are removed.
    """
    if not 1 <= count <= MAX_HOSTS:
        raise ValueError(f"{count} hosts: 1 to {MAX_HOSTS} fit on the bridge")
    prefix = f"fastgpu-{os.getpid()}-{next(_serial)}"
    hub = f"{prefix}-hub"
    made: list[str] = []
    joined = [
        Host(f"{prefix}-{index}", f"10.231.0.{index + 1}", f"fd00:231::{index + 1:x}")
        for index in range(count)
    ]
    try:
        for name in [hub, *(host.name for host in joined)]:
            _run("ip", "netns", "add", name)
            made.append(name)
        _lay_cables(joined, hub)
        for host in joined:
            _set_up(host, rate, burst)
        yield joined
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def run_ranks(
    hosts: Sequence[Host],
    host_of: Sequence[int],
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    master: str | None = None,
    seconds: float = 250,
) -> list[str]:
    """Runs a Python program as every rank of a process group; returns what each rank printed.

    Args:
        hosts: The namespaces.
        host_of: By rank: the index of its host.
        argv: The program and its arguments.
        environment: Variables beside RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. Those of
            fastgpu are not inherited.
        master: The address of rank 0; default: the first host's.
        seconds: How long a rank may take.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FASTGPU_")}
    common = {
        "WORLD_SIZE": str(len(host_of)),
        "MASTER_ADDR": master or hosts[0].address,
        "MASTER_PORT": "29400",  # free, as the namespaces are new
    }
    ranks = [
        subprocess.Popen(
            hosts[host].command([sys.executable, *argv]),
            env={**kept, **common, **environment, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, host in enumerate(host_of)
    ]
    try:
        return [rank.communicate(timeout=seconds)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()


@functools.cache
def unavailable(*, shaped: bool = False) -> str | None:
    """Says why namespaces cannot be made here, or None when they can.

    Args:
        shaped: Also ask for a limited rate, which needs `tc` and the kernel's tbf.
    """
    if not sys.platform.startswith("linux"):
        return f"network namespaces need Linux, this is {sys.platform}"
    tools = {"ip", "tc"} if shaped else {"ip"}
    missing = sorted(tool for tool in tools if shutil.which(tool) is None)
    if missing:
        return f"{' and '.join(missing)} not found (apt-get install iproute2)"
    try:
        with hosts(1, rate="1gbit" if shaped else None):
            return None
    except (NetnsError, OSError, subprocess.TimeoutExpired) as error:
        return f"network namespaces are not allowed here: {error}"
