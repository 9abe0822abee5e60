"""Checks of tensors on GPUs, run by test_devices.py on every rank.

By default the GPU is a device of the tests, whose streams run later than the calls, with drawn
delays, so that a missing order shows. CHECKED_DEVICE=cuda takes a real one: `make gpu-check`.
"""

from __future__ import annotations

import dataclasses
import os
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.reference import ops_of, reduce_op, same, values
from tests.torch_device import pretended
from torch import nn

import fastgpu_comm
from fastgpu_comm import codecs, native
from fastgpu_comm.bench.exchange import Exchange
from fastgpu_comm.bench.measure import Budget
from fastgpu_comm.bench.worker import Settings, Worker
from fastgpu_comm.collectives import COLLECTIVES

TYPE = os.environ.get("CHECKED_DEVICE", "pretended")
BACKENDS = f"cpu:fastgpu,{TYPE}:fastgpu"
DEVICE = f"{TYPE}:0"
CYCLES_PER_MS = 2_000_000  # of an NVIDIA GPU, about
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8)
# These have fewer sizes.
RARE_DTYPES = (
    *(torch.float64, torch.complex64, torch.complex128, torch.bool),
    *(torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64),
)
WAIT_MS = 30  # far longer than the calls around it


class RealDevice:
    """Stands in for the pretended device's module on a real GPU, by keeping streams busy."""

    def sleep(self, time_ms: float) -> None:
        """Keeps the current stream busy."""
        torch.cuda._sleep(int(time_ms * CYCLES_PER_MS))

    def hold(self) -> RealDevice:
        """Keeps the current stream busy for longer than the calls that follow take."""
        self.sleep(10 * WAIT_MS)
        return self

    def open(self) -> None:
        """Does nothing: the stream goes on by itself."""

    def overwrite_freed(self, overwrite: bool) -> None:
        """Does nothing: freed memory keeps its content until it is used again."""


def start() -> Any:
    """Loads the device; returns its module, whose `sleep` keeps the current stream busy."""
    if TYPE != "pretended":
        torch.cuda.set_device(0)
        return RealDevice()
    os.environ.setdefault("PRETENDED_DELAY_US", "200")
    os.environ["PRETENDED_SEED"] = str(dist.get_rank() + 1)
    module = pretended.load()
    native.use_devices(module.runtime(), module.kernels(), "pretended")
    module.overwrite_freed(True)
    return module


def device_module() -> Any:
    """Returns torch's module for the device, such as torch.cuda."""
    return torch.get_device_module(TYPE)


def new_group(**options: Any) -> dist.ProcessGroup:
    """Returns a group of all ranks for tensors of the CPU and of the device."""
    group: dist.ProcessGroup = dist.new_group(backend=BACKENDS, **options)
    return group


def collectives() -> None:
    """Every collective leaves what it leaves in tensors of the CPU."""
    start()
    rank, _ = me_and_world()
    group = new_group()
    for dtype in (*DTYPES, *RARE_DTYPES):
        for size in ((0,), (1,), (3, 5), (30_011,)) if dtype in DTYPES else ((3, 5),):
            mine = values(rank, dtype, *size)
            on_gpu = mine.to(DEVICE)
            for name in ops_of(dtype):
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
    parts = [torch.full_like(tensor, rank) for rank in range(dist.get_world_size())]
    dist.scatter(result, parts if dist.get_rank() == 0 else None, src=0, group=group)
    return result


def _all_to_all(tensor: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
    rank, world = me_and_world()
    first = tensor.flatten()[:1]  # empty if the tensor is
    counts = [(rank + peer) % 3 * len(first) for peer in range(world)]
    whole = torch.cat([first] * sum(counts) or [first[:0]])
    result = torch.zeros_like(whole)
    dist.all_to_all_single(result, whole, counts, counts, group=group)
    parts = torch.stack([torch.full_like(tensor.flatten(), rank) for _ in range(world)])
    even = torch.zeros_like(parts)
    dist.all_to_all_single(even, parts, group=group)
    return torch.cat([result, even.flatten()])


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
    device = start()
    rank, world = me_and_world()
    group = new_group()
    total = float(sum(range(1, world + 1)))
    for stream in (device_module().current_stream(), device_module().Stream()):
        with device_module().stream(stream):
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
    device = start()
    rank, world = me_and_world()
    groups = [new_group(), new_group()]
    streams = [device_module().Stream(), device_module().Stream()]
    tensors: list[torch.Tensor] = []
    works = []
    for turn in range(10):
        with device_module().stream(streams[turn % 2]):
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
    device = start()
    rank, world = me_and_world()
    group = new_group()
    total = float(sum(range(1, world + 1)))
    tensor = torch.full((4000,), rank + 1.0, device=DEVICE)
    device.sleep(WAIT_MS)
    future = dist.all_reduce(tensor, group=group, async_op=True).get_future()
    twice = future.then(lambda done: done.value()[0] * 2)
    same(twice.wait().cpu(), torch.full((4000,), 2 * total))
    same(future.wait()[0].cpu(), torch.full((4000,), total))


def messages() -> None:
    """Messages of tensors on GPUs, also before any collective, match by tag and keep the order."""
    device = start()
    rank, world = me_and_world()
    group = new_group()
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
        receiving = dist.irecv(tensor, left, group=group)
        assert receiving is not None
        receiving.wait()
        assert not receiving.is_completed()
    gate.open()
    for expected, tensor in zip(sent, taken, strict=True):
        same(tensor.cpu(), expected.cpu())
    assert receiving is not None
    assert receiving.is_completed()
    for sending in works:
        assert sending is not None
        sending.wait()
    received = torch.zeros(4, device=DEVICE)
    if rank == 0:
        senders = {dist.recv(received, group=group) for _ in range(world - 1)}
        assert senders == set(range(1, world))
    else:
        dist.send(received, 0, group=group)


def net() -> nn.Module:
    """Returns the model that is trained."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(40, 300), nn.ReLU(), nn.Linear(300, 10))


def training(ours: bool) -> None:
    """DistributedDataParallel on the GPU ends with the parameters of the one on the CPU."""
    start()
    kind = fastgpu_comm.DistributedDataParallel if ours else nn.parallel.DistributedDataParallel
    expected, result = (_trained(kind, device) for device in ("cpu", DEVICE))
    torch.testing.assert_close(result, expected)


def encoded_training(
    codec: str, rounding: str, weighted: str | None, algorithm: str = "direct"
) -> None:
    """With a codec, too: to the bit, as GPUs encode and sum up like the CPU."""
    start()
    found = codecs.find(codec)
    assert found is not None
    made = dataclasses.replace(found, rounding=rounding)
    options = {"codec": lambda *_: made, "weighted": weighted}
    expected, result = (
        _trained(fastgpu_comm.DistributedDataParallel, device, algorithm, **options)
        for device in ("cpu", DEVICE)
    )
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


def _trained(
    kind: Any, device: str, algorithm: str = "direct", **options: Any
) -> list[torch.Tensor]:
    """Returns the parameters after a few steps, with the gradients computed on the CPU."""
    rank, _ = me_and_world()
    # Not `auto`, because the choice would differ with the costs, and so would the order of sums.
    group = new_group(pg_options=fastgpu_comm.Options(algorithm=algorithm))
    wrapped = kind(net().to(device), process_group=group, bucket_cap_mb=0.02, **options)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(rank)
    for _ in range(4):
        if options.get("weighted"):
            wrapped.set_weight(rank + 1.0)
        inputs = torch.randn(16, 40, generator=generator).to(device)
        wrapped(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [parameter.detach().cpu() for parameter in wrapped.parameters()]


def loaded_residuals() -> None:
    """A loaded residual arrives on the GPU, also at a parameter without error feedback."""
    start()
    rank, world = me_and_world()
    group = new_group()
    for codec in ("int8", "fp16"):
        encoded, plain = (
            fastgpu_comm.DistributedDataParallel(net().to(DEVICE), process_group=group, codec=each)
            for each in (codec, None)
        )
        state = encoded.reducer_state_dict() | {"residuals": {"0.weight": torch.ones(300, 40)}}
        encoded.load_reducer_state_dict(state)
        inputs = torch.randn(16, 40, generator=torch.Generator().manual_seed(rank)).to(DEVICE)
        found = []
        for model in (encoded, plain):
            model(inputs).square().mean().backward()
            found.append(dict(model.module.named_parameters())["0.weight"].grad)
        result, expected = (gradient.cpu() for gradient in found if gradient is not None)
        torch.testing.assert_close(result, expected + world, rtol=0.02, atol=0.02)


def encoded_sums(algorithm: str = "direct") -> None:
    """A group's codec encodes large sums on the GPU as on the CPU, in fewer bytes, to the bit."""
    start()
    rank, _ = me_and_world()
    for codec, ratio in (("fp16", 2), ("bf16", 2), ("int8", 3.8), ("int4", 7)):
        options = fastgpu_comm.Options(codec=codec, algorithm=algorithm)
        group = new_group(pg_options=options)
        generator = torch.Generator().manual_seed(rank)
        given = torch.randn(100_003, generator=generator)
        for op in (dist.ReduceOp.SUM, dist.ReduceOp.AVG):
            expected, result = given.clone(), given.to(DEVICE)
            dist.all_reduce(expected, op=op, group=group)
            before = fastgpu_comm.stats(group)["bytes_sent"]
            dist.all_reduce(result, op=op, group=group)
            sent = fastgpu_comm.stats(group)["bytes_sent"] - before
            # With `hierarchical` most bytes stay within a host, and are not encoded.
            assert algorithm != "direct" or sent < 4 * len(given) / ratio * 1.5
            assert torch.equal(result.cpu(), expected)


def benchmark() -> None:
    """`fastgpu-comm bench --device` measures every collective on the device, with right results."""
    start()
    rank, world = me_and_world()
    settings = Settings(
        collectives=list(COLLECTIVES),
        backends=["fastgpu"],
        sizes=[40, 4000],
        dtypes=["float32"],
        redops=["sum", "max"],
        root=0,
        budget=Budget(seconds=0, least_calls=2, warmup_calls=1),
        touch=False,
        timeout=timedelta(seconds=60),
        device=TYPE,
    )
    store = dist.PrefixStore("bench", dist.distributed_c10d._get_default_store())
    job: Any = SimpleNamespace(
        rank=rank,
        world_size=world,
        groups={"fastgpu": new_group()},
        exchange=Exchange(store, rank, world),
    )
    rows = [row for _, rows in Worker(settings, job).run() for row in rows]
    assert len(rows) > len(COLLECTIVES)
    for row in rows:
        assert (row.error, row.wrong) == (None, 0), row
        assert row.timing is not None
