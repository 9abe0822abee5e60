"""Checks of setting up a group: errors that reach every rank, and listening sockets."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.events import Events, survivors

import fastgpu_comm

LISTENING = "0A"  # as /proc/net/tcp writes the state
CLONE_NEWUTS = 0x04000000
# The group's time-out is far above this; a waiting rank looks for failures five times a second.
SOON_S = 20.0
FAR_S = 600


def fails_alone(wording: str, environment: dict[str, str]) -> None:
    """One rank cannot set up a group: the others' errors name it, and a new group works."""
    rank, world = me_and_world()
    guilty = world - 1
    kept = dict(os.environ)
    if rank == guilty:
        os.environ.update(environment)
    start = time.monotonic()
    expected = fastgpu_comm.CommError if rank == guilty else fastgpu_comm.RendezvousError
    with pytest.raises(expected, match=wording) as caught:
        dist.new_group(list(range(world)), timeout=timedelta(seconds=FAR_S))
    assert time.monotonic() - start < SOON_S
    os.environ.clear()
    os.environ.update(kept)
    if rank != guilty:
        assert caught.value.peer == guilty
        host = socket.gethostname()
        assert f"rank {guilty} (host {host}, pid " in str(caught.value), caught.value
        assert f"Seen by rank {rank}" in str(caught.value), caught.value
    group = dist.new_group(list(range(world)))
    dist.all_reduce(torch.ones(3), group=group)
    dist.destroy_process_group(group)


def used_up_port() -> None:
    """One rank finds no port to listen on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        only = {
            "FASTGPU_PORT_RANGE": port,
            "FASTGPU_INTERFACE": "127.0.0.1",
            "FASTGPU_TRANSPORT": "tcp",
        }
        fails_alone(r"cannot listen on .*, port \d+: ", only)


def transports_differ() -> None:
    """Shm on one rank and tcp on another: both are named, with their transports, on all ranks."""
    rank, world = me_and_world()
    options = fastgpu_comm.Options(transport="shm" if rank == 0 else "tcp")
    wording = r"rank 0 \(host .*\) has the transport shm, but rank 1 \(host .*\) has .* tcp\. Seen"
    with pytest.raises(fastgpu_comm.RendezvousError, match=wording):
        dist.new_group(list(range(world)), pg_options=options)
    dist.barrier()


def interface_option() -> None:
    """An error names the option, and not the variable, where the user set the option."""
    _, world = me_and_world()
    options = fastgpu_comm.Options(interface="nope0")
    with pytest.raises(fastgpu_comm.InvalidArgumentError, match="option 'interface' is 'nope0'"):
        dist.new_group(list(range(world)), pg_options=options)


def listening_addresses() -> set[str]:
    """The addresses on which this process listens for TCP, as the kernel writes them."""
    inodes = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            inodes.add(os.readlink(descriptor))
        except FileNotFoundError:  # the one that iterdir() reads
            continue
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and f"socket:[{fields[9]}]" in inodes:
                found.add(fields[1].split(":")[0])
    return found


def listens_on(expected: tuple[str, ...]) -> None:
    """The process listens on these addresses and no others, also after a collective."""
    dist.all_reduce(torch.ones(3))
    assert listening_addresses() <= set(expected), listening_addresses()
    assert bool(listening_addresses()) == bool(expected)


def host_name_is_not_utf8() -> None:
    """A lost rank is named, whatever bytes its host name has."""
    rank, world = me_and_world()
    last = world - 1
    name = b"node\xff\n\x1b[1m"
    if rank == last:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(CLONE_NEWUTS) == 0, os.strerror(ctypes.get_errno())
        assert libc.sethostname(name, len(name)) == 0, os.strerror(ctypes.get_errno())
    group = dist.new_group(list(range(world)))
    dist.all_reduce(torch.ones(3), group=group)
    if rank == last:
        Events().wait(*(f"waits {peer}" for peer in survivors(missing=last)))
        os.kill(os.getpid(), signal.SIGKILL)
    work = dist.all_reduce(torch.ones(3), group=group, async_op=True)
    assert work is not None
    Events().set(f"waits {rank}")
    with pytest.raises(fastgpu_comm.PeerLostError) as caught:
        work.wait()
    assert rf"rank {last} (host node?  [1m, pid " in str(caught.value)
