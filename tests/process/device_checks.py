"""Checks of tensors on GPUs, run by test_devices.py on every rank, with a device of the tests.

Its streams run later than the calls, with drawn delays, so that a missing order shows.
"""

from __future__ import annotations

import copy
import os
import re
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.events import Events
from tests.process.reference import ops_of, reduce_op, same, values
from tests.torch_device import pretended
from torch import nn

import fastgpu_comm
from fastgpu_comm import native

BACKENDS = "cpu:fastgpu,pretended:fastgpu"
DEVICE = "pretended:0"
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8)
WAIT_MS = 30  # far longer than the calls around it


def _start() -> Any:
    """Loads the device; returns its module, whose `sleep` keeps the current stream busy."""
    os.environ.setdefault("PRETENDED_DELAY_US", "200")
    os.environ["PRETENDED_SEED"] = str(dist.get_rank() + 1)
    module = pretended.load()
    native.use_devices(module.runtime(), "pretended")
    module.overwrite_freed(True)
    return module


def _group(**options: Any) -> dist.ProcessGroup:
    return dist.new_group(backend=BACKENDS, **options)


def collectives() -> None:
    """Every collective leaves what it leaves in tensors of the CPU."""
    _start()
    rank, _ = me_and_world()
    group = _group()
    for dtype in DTYPES:
        for size in ((1,), (3, 5), (30_011,)):
            mine = values(rank, dtype, *size)
            on_gpu = mine.to(DEVICE)
            for name in ops_of(dtype):
                if name in ("AVG", "PREMUL_SUM") and not dtype.is_floating_point:
                    continue
                for call in (_all_reduce, _reduce, _reduce_scatter):
                    expected, result = mine.clone(), on_gpu.clone()
                    call(expected, name, None)
                    call(result, name, group)
                    same(result.cpu(), expected)
            for moves in (_broadcast, _all_gather, _gather, _scatter, _all_to_all, _lists):
                same(moves(on_gpu, group).cpu(), moves(mine, None))
    dist.barrier(group=group)


def _all_reduce(tensor: torch.Tensor, name: str, group: dist.ProcessGroup | None) -> None:
    dist.all_reduce(tensor, op=reduce_op(name), group=group)


def _reduce(tensor: torch.Tensor, name: str, group: dist.ProcessGroup | None) -> None:
    result = tensor.clone()
    dist.reduce(result, 0, op=reduce_op(name), group=group)
    if dist.get_rank() == 0:
        tensor.copy_(result)


def _reduce_scatter(tensor: torch.Tensor, name: str, group: dist.ProcessGroup | None) -> None:
    whole = torch.cat([tensor.flatten()] * dist.get_world_size())
    dist.reduce_scatter_tensor(tensor.view(-1), whole, op=reduce_op(name), group=group)


def _broadcast(tensor: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
    result = tensor.clone()
    dist.broadcast(result, 1, group=group)
    return result


def _all_gather(tensor: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
    result = torch.cat([torch.zeros_like(tensor).flatten()] * dist.get_world_size())
    dist.all_gather_into_tensor(result, tensor.flatten(), group=group)
    return result


def _empty_list(tensor: torch.Tensor) -> list[torch.Tensor]:
    return [torch.zeros_like(tensor) for _ in range(dist.get_world_size())]


def _gather(tensor: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
    parts = _empty_list(tensor) if dist.get_rank() == 1 else None
    dist.gather(tensor, parts, dst=1, group=group)
    return tensor if parts is None else torch.stack(parts)


def _scatter(tensor: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
    result = torch.zeros_like(tensor)
    parts = [tensor + rank for rank in range(dist.get_world_size())]
    dist.scatter(result, parts if dist.get_rank() == 0 else None, src=0, group=group)
    return result


def _all_to_all(tensor: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
    rank, world = me_and_world()
    counts = [(rank + peer) % 3 for peer in range(world)]
    whole = torch.cat([tensor.flatten()[:1]] * sum(counts) or [tensor.flatten()[:0]])
    result = torch.zeros_like(whole)
    dist.all_to_all_single(result, whole, counts, counts, group=group)
    return result


def _lists(tensor: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
    parts = _empty_list(tensor)
    dist.all_gather(parts, tensor, group=group)
    sums = torch.zeros_like(tensor)
    dist.reduce_scatter(sums, parts, group=group)
    return torch.stack([*parts, sums])


def order_of_streams() -> None:
    """A call follows the current stream, and what that stream gets after wait() follows the call.

    wait() itself does not wait for the stream.
    """
    device = _start()
    rank, world = me_and_world()
    group = _group()
    total = float(sum(range(1, world + 1)))
    for stream in (torch.pretended.current_stream(), torch.pretended.Stream()):
        with torch.pretended.stream(stream):
            for _ in range(5):
                tensor = torch.zeros(5000, device=DEVICE)
                device.sleep(WAIT_MS)
                tensor.fill_(rank + 1.0)
                work = dist.all_reduce(tensor, group=group, async_op=True)
                assert not work.is_completed()
                work.wait()
                tensor.mul_(2.0)
                same(tensor.cpu(), torch.full((5000,), 2.0 * total))
                assert work.is_completed()


def order_of_groups() -> None:
    """Two groups, called in two streams, run beside each other; each result has its own order."""
    device = _start()
    rank, world = me_and_world()
    groups = [_group(), _group()]
    streams = [torch.pretended.Stream(), torch.pretended.Stream()]
    tensors: list[torch.Tensor] = []
    works = []
    for turn in range(10):
        with torch.pretended.stream(streams[turn % 2]):
            if turn == 0:
                device.sleep(WAIT_MS)
            tensors.append(torch.full((3000 + turn,), float(rank + turn), device=DEVICE))
            works.append(dist.all_reduce(tensors[-1], group=groups[turn % 2], async_op=True))
    for turn, (work, tensor) in enumerate(zip(works, tensors, strict=True)):
        work.wait()
        expected = float(sum(rank + turn for rank in range(world)))
        same(tensor.cpu(), torch.full((3000 + turn,), expected))


def futures() -> None:
    """The value of a future is ordered for who uses it, in callbacks as well."""
    device = _start()
    rank, world = me_and_world()
    group = _group()
    total = float(sum(range(1, world + 1)))
    tensor = torch.full((4000,), rank + 1.0, device=DEVICE)
    device.sleep(WAIT_MS)
    future = dist.all_reduce(tensor, group=group, async_op=True).get_future()
    twice = future.then(lambda done: done.value()[0] * 2)
    same(twice.wait().cpu(), torch.full((4000,), 2 * total))
    same(future.wait()[0].cpu(), torch.full((4000,), total))


def lifetimes() -> None:
    """A tensor that its caller drops is neither freed nor reused before the call is done with it.

    Freed memory is overwritten here, so peers would read or send what was not given.
    """
    device = _start()
    rank, world = me_and_world()
    group = _group()
    for size in (100, 300_000):
        results = []
        works = []
        for turn in range(6):
            device.sleep(3)
            given = torch.full((size,), float(rank * 10 + turn), device=DEVICE)
            results.append(torch.zeros(world * size, device=DEVICE))
            works.append(
                dist.all_gather_into_tensor(results[-1], given, group=group, async_op=True)
            )
            del given
            torch.full((size,), -1.0, device=DEVICE)  # wants memory of this size
        for turn, (work, result) in enumerate(zip(works, results, strict=True)):
            work.wait()
            expected = torch.cat([torch.full((size,), float(r * 10 + turn)) for r in range(world)])
            same(result.cpu(), expected)
        fresh = []
        for _ in range(6):  # the result is dropped, and its memory wanted, before it is there
            dist.all_reduce(torch.ones(size, device=DEVICE), group=group, async_op=True)
            fresh.append(torch.full((size,), -1.0, device=DEVICE))
        dist.barrier(group=group)
        torch.pretended.synchronize()
        for tensor in fresh:
            same(tensor.cpu(), torch.full((size,), -1.0))


def symmetric_memory() -> None:
    """Memory of `empty` is reused only after the stream that used it, and collectives take it."""
    device = _start()
    rank, world = me_and_world()
    group = _group()
    for turn in range(10):
        tensor = fastgpu_comm.empty(50_000, device=DEVICE)
        device.sleep(2)
        tensor.fill_(float(rank + turn))
        dist.all_reduce(tensor, group=group)
        result = tensor.clone()
        del tensor
        other = fastgpu_comm.empty(50_000, device=DEVICE)
        with torch.pretended.stream(torch.pretended.Stream()):
            other.fill_(-1.0)  # elsewhere, at once
        same(result.cpu(), torch.full((50_000,), float(sum(r + turn for r in range(world)))))
        torch.pretended.synchronize()
    with pytest.raises(fastgpu_comm.InvalidArgumentError, match="allowed: cpu and pretended"):
        fastgpu_comm.empty(1, device="meta")
    with pytest.raises(fastgpu_comm.CommError, match="7"):
        fastgpu_comm.empty(1, device="pretended:7")


def messages() -> None:
    """Messages of tensors on GPUs, also before any collective, match by tag and keep the order."""
    device = _start()
    rank, world = me_and_world()
    group = _group()
    right, left = (rank + 1) % world, (rank - 1) % world
    for size in (0, 1, 50_000):
        outgoing = torch.zeros(size, device=DEVICE)
        incoming = [torch.zeros(size, device=DEVICE) for _ in range(2)]
        device.sleep(WAIT_MS)
        outgoing.fill_(float(rank))
        works = [
            dist.isend(outgoing, right, group=group, tag=1),
            dist.isend(outgoing + 100, right, group=group, tag=2),
            dist.irecv(incoming[1], left, group=group, tag=2),
            dist.irecv(incoming[0], left, group=group, tag=1),
        ]
        for work in works:
            assert work is not None
            work.wait()
        same(incoming[0].cpu(), torch.full((size,), float(left)))
        same(incoming[1].cpu(), torch.full((size,), left + 100.0))
    # The messages are here before the stream takes them: a wait ends, and nothing is lost.
    sent = [torch.full((50_000,), float(turn), device=DEVICE) for turn in range(4)]
    works = [dist.isend(tensor, right, group=group) for tensor in sent]
    gate = device.hold()
    taken = [torch.zeros(50_000, device=DEVICE) for _ in sent]
    for tensor in taken:
        work = dist.irecv(tensor, left, group=group)
        assert work is not None
        work.wait()
        assert not work.is_completed()
    gate.open()
    for expected, tensor in zip(sent, taken, strict=True):
        same(tensor.cpu(), expected.cpu())
    assert work.is_completed()
    for sending in works:
        assert sending is not None
        sending.wait()
    received = torch.zeros(4, device=DEVICE)
    if rank == 0:
        senders = {dist.recv(received, group=group) for _ in range(world - 1)}
        assert senders == set(range(1, world))
    else:
        dist.send(received, 0, group=group)


def bad_arguments() -> None:
    """What cannot be done is refused, says what to do, and harms nothing."""
    _start()
    rank, world = me_and_world()
    group = _group()
    gap = torch.ones(4, 6, device=DEVICE)[:, :2]
    refused: list[tuple[str, Callable[[], Any]]] = [
        (r"pass tensor\.contiguous\(\)", lambda: dist.all_reduce(gap, group=group)),
        (
            "on several devices",
            lambda: dist.all_gather(
                [torch.ones(2, device=DEVICE), *[torch.ones(2)] * (world - 1)],
                torch.ones(2, device=DEVICE),
                group=group,
            ),
        ),
        (
            "AVG of int64 is not supported",
            lambda: dist.all_reduce(
                torch.ones(2, dtype=torch.int64, device=DEVICE), op=dist.ReduceOp.AVG, group=group
            ),
        ),
        (
            "uses GPU 0 on this rank",
            lambda: dist.all_reduce(torch.ones(2, device="pretended:1"), group=group),
        ),
    ]
    dist.all_reduce(torch.ones(2, device=DEVICE), group=group)
    for text, call in refused:
        with pytest.raises(fastgpu_comm.InvalidArgumentError, match=text):
            call()
    tensor = torch.full((3,), rank + 1.0, device=DEVICE).to(memory_format=torch.contiguous_format)
    dist.all_reduce(tensor, group=group)
    same(tensor.cpu(), torch.full((3,), float(sum(range(1, world + 1)))))


def mismatch() -> None:
    """Calls that differ raise on all ranks, and both are named."""
    _start()
    rank, _ = me_and_world()
    group = _group()
    dist.all_reduce(torch.ones(2, device=DEVICE), group=group)
    with pytest.raises(fastgpu_comm.CollectiveMismatchError, match=r"count=(4|5)"):
        dist.all_reduce(torch.ones(4 + (rank == 0), device=DEVICE), group=group)


def time_out() -> None:
    """A rank that does not come is named when the time is over."""
    _start()
    rank, world = me_and_world()
    events = Events()
    group = _group(timeout=timedelta(seconds=1))
    dist.all_reduce(torch.ones(2, device=DEVICE), group=group)
    if rank == world - 1:
        events.wait("all others have failed")
        return
    start = time.monotonic()
    with pytest.raises(fastgpu_comm.CollectiveTimeoutError, match="Timed out after 1") as caught:
        dist.all_reduce(torch.ones(300_000, device=DEVICE), group=group)
    assert time.monotonic() - start < 30
    assert caught.value.op == "all_reduce"
    if rank == 0:
        events.set("all others have failed")


def lost_rank() -> None:
    """A rank that dies is named by the others, with its host."""
    _start()
    rank, world = me_and_world()
    events = Events()
    group = _group()
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
        dist.all_reduce(tensor, group=group)


def _model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(40, 300), nn.ReLU(), nn.Linear(300, 10))


def training(ours: bool) -> None:
    """DistributedDataParallel on the GPU ends with the parameters of the one on the CPU."""
    _start()
    rank, _ = me_and_world()
    group = _group()
    kind = fastgpu_comm.DistributedDataParallel if ours else nn.parallel.DistributedDataParallel
    model = _model()
    on_cpu = kind(copy.deepcopy(model))
    on_gpu = kind(copy.deepcopy(model).to(DEVICE), process_group=group, bucket_cap_mb=0.02)
    trained = []
    for wrapped, device in ((on_cpu, "cpu"), (on_gpu, DEVICE)):
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=0.9)
        generator = torch.Generator().manual_seed(rank)
        for _ in range(4):
            inputs = torch.randn(16, 40, generator=generator).to(device)
            wrapped(inputs).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        trained.append([parameter.detach().cpu() for parameter in wrapped.parameters()])
    for expected, result in zip(*trained, strict=True):
        torch.testing.assert_close(result, expected)


def codecs_are_refused() -> None:
    """Codecs compress tensors of the CPU only, and say so."""
    _start()
    group = _group()
    with pytest.raises(ValueError, match="not on the CPU"):
        fastgpu_comm.DistributedDataParallel(_model().to(DEVICE), process_group=group, codec="int8")
