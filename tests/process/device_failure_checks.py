"""Checks of failures with tensors on GPUs, run by test_devices.py on every rank."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.device_checks import DEVICE, TYPE, net, new_group, start
from tests.process.events import Events
from tests.process.reference import same

import fastgpu_comm
from fastgpu_comm import codecs


def bad_arguments() -> None:
    """Calls with bad arguments raise an error with the remedy, and change nothing."""
    start()
    rank, world = me_and_world()
    group = new_group()
    gap = torch.ones(4, 6, device=DEVICE)[:, :2]
    refused: list[tuple[str, Callable[[], Any]]] = [
        (r"pass tensor\.contiguous\(\)", lambda: dist.all_reduce(gap, group=group)),
        (
            "several tensors",
            lambda: dist.all_gather_into_tensor(
                torch.ones(world * 8, 2, 2, 2, device=DEVICE),
                torch.ones(8, 2, 2, 2, device=DEVICE).to(memory_format=torch.channels_last),
                group=group,
            ),
        ),
        (
            "on several devices",
            lambda: dist.all_gather(
                [torch.ones(2, device=DEVICE), *[torch.ones(2)] * (world - 1)],
                torch.ones(2, device=DEVICE),
                group=group,
            ),
        ),
    ]
    if torch.get_device_module(TYPE).device_count() > 1:
        other = torch.ones(2, device=f"{TYPE}:1")
        refused.append(("uses GPU 0 on this rank", lambda: dist.all_reduce(other, group=group)))
        refused.append(("uses GPU 0 on this rank", lambda: dist.send(other, 1 - rank, group=group)))
    dist.all_reduce(torch.ones(2, device=DEVICE), group=group)
    for text, call in refused:
        with pytest.raises(fastgpu_comm.InvalidArgumentError, match=text):
            call()
    tensor = torch.full((3,), rank + 1.0, device=DEVICE)
    dist.all_reduce(tensor, group=group)
    same(tensor.cpu(), torch.full((3,), float(sum(range(1, world + 1)))))


def call_until_it_fails(call: Callable[[], Any], group: dist.ProcessGroup) -> None:
    """Makes the call, then small ones, because a kernel fails later than its call."""
    call()
    small = torch.ones(1, device=DEVICE)
    for _ in range(2000):
        dist.all_reduce(small, group=group)
        time.sleep(0.005)


def mismatch() -> None:
    """Calls that differ raise on all ranks, and both are named.

    So do a tensor of a GPU and one of the CPU, in the first call on a GPU.
    """
    start()
    rank, world = me_and_world()
    mixed = new_group()
    with pytest.raises(fastgpu_comm.CollectiveMismatchError, match="all_reduce"):
        dist.all_reduce(torch.ones(2, device=DEVICE if rank == 0 else "cpu"), group=mixed)
    group = new_group()
    dist.all_reduce(torch.ones(2, device=DEVICE), group=group)
    with pytest.raises(fastgpu_comm.CollectiveMismatchError, match=r"count=(4|5)"):
        call_until_it_fails(
            lambda: dist.all_reduce(torch.ones(4 + (rank == 0), device=DEVICE), group=group), group
        )
    group = new_group()
    sent = torch.ones(3 * world, device=DEVICE)
    splits = [3] * world if rank == 0 else None
    received = torch.zeros_like(sent)
    with pytest.raises(fastgpu_comm.CollectiveMismatchError, match=r"count=(by rank|3)"):
        call_until_it_fails(
            lambda: dist.all_to_all_single(received, sent, splits, splits, group=group), group
        )


def time_out() -> None:
    """A rank that does not come is named when the time is over."""
    start()
    rank, world = me_and_world()
    events = Events()
    group = new_group(timeout=timedelta(seconds=1))
    dist.all_reduce(torch.ones(2, device=DEVICE), group=group)
    if rank == world - 1:
        events.wait("all others have failed")
        return
    began = time.monotonic()
    with pytest.raises(fastgpu_comm.CollectiveTimeoutError, match="Timed out after 1") as caught:
        call_until_it_fails(
            lambda: dist.all_reduce(torch.ones(300_000, device=DEVICE), group=group), group
        )
    assert time.monotonic() - began < 30
    assert caught.value.op == "all_reduce"
    if rank == 0:
        events.set("all others have failed")


def frozen_rank() -> None:
    """A rank that is stopped is named when the time is over, and fails when it goes on."""
    start()
    rank, world = me_and_world()
    events = Events()
    group = new_group(timeout=timedelta(seconds=1))
    tensor = torch.ones(300_000, device=DEVICE)
    dist.all_reduce(tensor, group=group)
    events.set(f"process of rank {rank}", os.getpid())
    if rank == world - 1:
        with pytest.raises(fastgpu_comm.CollectiveTimeoutError):
            call_until_it_fails(lambda: dist.all_reduce(tensor, group=group), group)
        return
    frozen = int(events.get(f"process of rank {world - 1}"))
    os.kill(frozen, signal.SIGSTOP)
    try:
        named = rf"Timed out after 1000 ms.* waited for rank {world - 1} \(host"
        with pytest.raises(fastgpu_comm.CollectiveTimeoutError, match=named):
            call_until_it_fails(lambda: dist.all_reduce(tensor, group=group), group)
    finally:
        os.kill(frozen, signal.SIGCONT)


def lost_rank() -> None:
    """Survivors name the dead rank and its host."""
    start()
    rank, world = me_and_world()
    events = Events()
    group = new_group()
    tensor = torch.ones(300_000, device=DEVICE)
    dist.all_reduce(tensor, group=group)
    tensor.cpu()
    if rank == world - 1:
        for peer in range(world - 1):
            events.wait(f"rank {peer} has its result")
        os._exit(9)
    events.set(f"rank {rank} has its result")
    named = rf"rank {world - 1} \(host {re.escape(socket.gethostname())}"
    with pytest.raises(fastgpu_comm.PeerLostError, match=named):
        call_until_it_fails(lambda: dist.all_reduce(tensor, group=group), group)


def unknown_codecs() -> None:
    """Codecs without kernels for GPUs are refused, and the error lists the others."""
    start()
    group = new_group()
    eight_bits = codecs.find("int8")
    assert eight_bits is not None
    for codec, text in (
        ("1bit", "use one of fp16, bf16, int8, int4"),
        ("auto", "name a codec"),
        (dataclasses.replace(eight_bits, residual_bits=8), "use 32"),
    ):
        with pytest.raises(ValueError, match=text):
            fastgpu_comm.DistributedDataParallel(net().to(DEVICE), process_group=group, codec=codec)
