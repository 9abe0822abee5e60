"""Setting up a group: a rank that fails, comes late or comes twice, and sockets that listen."""

from __future__ import annotations

import os
import re
import socket

import pytest
import torch.distributed as dist
from tests.process import setup_checks as checks
from tests.process.programs import run_programs
from tests.process.ranks import Ranks, Setting

SHM = Setting(3)
SECONDS = 200  # for one program, on a busy machine

FAULTS = {
    "bad option": (r"FASTGPU_ALGORITHM is 'rnig'", {"FASTGPU_ALGORITHM": "rnig"}),
    "unknown option": ("FASTGPU_ALGORYTHM is not known", {"FASTGPU_ALGORYTHM": "ring"}),
    "no interface": ("FASTGPU_INTERFACE is 'nope0', but no", {"FASTGPU_INTERFACE": "nope0"}),
    "bytes that are not text": (r"FASTGPU_ALGORITHM is '.'", {"FASTGPU_ALGORITHM": "\udcff"}),
}


@pytest.mark.parametrize(("wording", "environment"), FAULTS.values(), ids=FAULTS)
def test_the_others_hear_why_a_rank_failed(
    ranks: Ranks, wording: str, environment: dict[str, str]
) -> None:
    ranks.run(checks.fails_alone, SHM, wording, environment)


def test_the_others_hear_of_a_used_up_port_range(ranks: Ranks) -> None:
    ranks.run(checks.used_up_port, SHM)


def test_transports_that_exclude_each_other_are_named(ranks: Ranks) -> None:
    ranks.run(checks.transports_differ, Setting(2))


def test_an_option_is_named_as_the_user_set_it(ranks: Ranks) -> None:
    ranks.run(checks.interface_option, Setting(2))


LOOPBACK = ("0100007F", "0" * 24 + "01000000")
LISTENERS = {
    "auto": ({}, ()),
    "shm": ({"FASTGPU_TRANSPORT": "shm"}, ()),
    "tcp on lo": ({"FASTGPU_TRANSPORT": "tcp", "FASTGPU_INTERFACE": "lo"}, LOOPBACK),
    "tcp on IPv4 lo": (
        {"FASTGPU_TRANSPORT": "tcp", "FASTGPU_INTERFACE": "127.0.0.1"},
        LOOPBACK[:1],
    ),
}


@pytest.mark.parametrize(("environment", "addresses"), LISTENERS.values(), ids=LISTENERS)
def test_processes_listen_where_they_must(
    ranks: Ranks, environment: dict[str, str], addresses: tuple[str, ...]
) -> None:
    ranks.kill()  # a process keeps the sockets of its earlier groups
    ranks.run(checks.listens_on, Setting(2, environment=environment), addresses)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may set the name of a host")
def test_a_host_name_that_is_not_utf8(ranks: Ranks) -> None:
    ranks.kill()
    ranks.run(checks.host_name_is_not_utf8, SHM, expect_killed=(2,))


# The program of a rank. A late one waits before it joins.
JOIN = """
import os, sys, time
from datetime import timedelta
import torch, torch.distributed as dist, fastgpu_comm
rank, world, port, late_seconds = map(int, sys.argv[1:])
store = dist.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)
time.sleep(late_seconds)
try:
    dist.init_process_group("fastgpu", store=store, rank=rank, world_size=world,
                            timeout=timedelta(minutes=10))
    time.sleep(late_seconds)
    dist.all_reduce(torch.ones(1), group=dist.new_group())
except fastgpu_comm.CommError as error:
    raise SystemExit(f"{type(error).__name__}: {error}")
dist.destroy_process_group()
"""


def errors_of(joining: list[tuple[int, int, int]]) -> list[str]:
    """Returns the standard error of each process, given as (rank, world, delay in seconds)."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    commands = [
        [JOIN, str(rank), str(world), str(store.port), str(late)] for rank, world, late in joining
    ]
    return [ended.stderr.strip() for ended in run_programs(commands, {}, SECONDS)]


def test_waiting_for_a_late_rank_writes_nothing() -> None:
    assert errors_of([(0, 3, 0), (1, 3, 0), (2, 3, 2)]) == ["", "", ""]


def test_two_processes_of_one_rank_are_named() -> None:
    for error in errors_of([(0, 2, 0), (0, 2, 0)]):
        assert "RendezvousError" in error
        assert "two processes have this rank: host " in error


def test_world_sizes_that_differ_are_named() -> None:
    for error in errors_of([(0, 3, 0), (1, 2, 0)]):
        assert "RendezvousError" in error
        assert re.search(r"rank \d \(host .*\) has a world of \d ranks, and rank \d \(", error), (
            error
        )


# Rank 0 serves the store, and ends at once with its error.
SERVE_AND_FAIL = """
import os, torch.distributed as dist, fastgpu_comm
if os.environ["RANK"] == "0":
    os.environ["FASTGPU_LANES"] = "many"
try:
    dist.init_process_group("fastgpu")
except fastgpu_comm.CommError as error:
    print(error, flush=True)
os._exit(1)
"""


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def rendezvous_environment(world: int) -> dict[str, str]:
    """The variables of env://, but for RANK."""
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(world),
    }


def with_rank(rank: int, program: str, *arguments: str) -> list[str]:
    """A command that runs the program as this rank."""
    return [f"import os\nos.environ['RANK'] = '{rank}'\n{program}", *arguments]


def test_the_reason_arrives_though_the_store_ends() -> None:
    commands = [with_rank(rank, SERVE_AND_FAIL) for rank in range(3)]
    for ended in run_programs(commands, rendezvous_environment(3), SECONDS):
        assert "FASTGPU_LANES is 'many', which is not allowed" in ended.stdout, ended


# Each round makes a group on the same port. Rank 0's process serves the store of each.
AGAIN_AND_AGAIN = """
import sys, torch, torch.distributed as dist
for _ in range(int(sys.argv[1])):
    dist.init_process_group("fastgpu")
    if sys.argv[2] == "with":
        total = torch.ones(1)
        dist.all_reduce(total)
        assert total.item() == dist.get_world_size()
    dist.destroy_process_group()
"""
ROUNDS = 15
# Rank 0 serves the store on for a while after it has left its group.
OUTLIVING_STORE = """
import socket, time, torch.distributed as dist
dist.init_process_group("fastgpu")
store, rank = dist.distributed_c10d._get_default_store(), dist.get_rank()
address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
if rank == 1:
    del store
began = time.monotonic()
dist.destroy_process_group()
if rank == 0:
    time.sleep(0.3)
    del store
elif time.monotonic() - began < 1:  # which is the longest that it waits for the store
    try:
        socket.create_connection(address).close()
    except ConnectionRefusedError:
        pass
    else:
        raise SystemExit("the store is still there")
"""


@pytest.mark.parametrize("calls", ["with", "without"])
def test_groups_follow_each_other_on_one_port(calls: str) -> None:
    commands = [with_rank(rank, AGAIN_AND_AGAIN, str(ROUNDS), calls) for rank in range(4)]
    ended = run_programs(commands, rendezvous_environment(4), SECONDS)
    assert [one.status for one in ended] == [0] * 4, ended


def test_a_group_ends_after_its_store() -> None:
    commands = [with_rank(rank, OUTLIVING_STORE) for rank in range(2)]
    ended = run_programs(commands, rendezvous_environment(2), SECONDS)
    assert [one.status for one in ended] == [0] * 2, ended
