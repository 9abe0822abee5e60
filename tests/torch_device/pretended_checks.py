"""Checks of the torch device "pretended", in a process of their own. Run by test_pretended.py."""

from __future__ import annotations

import copy
import io
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.torch_device import pretended
from torch import Tensor, nn

DEVICE = "pretended:0"
NEXT = "pretended:1"


def filled_later(value: float = 0.0) -> Tensor:
    return torch.full((1000,), float(value), device=DEVICE)


def filled(value: float = 0.0) -> Tensor:
    """Makes a tensor whose contents are there."""
    made = filled_later(value)
    torch.accelerator.synchronize()
    return made


def same(tensor: Tensor, value: float) -> bool:
    return torch.equal(tensor.cpu(), torch.full(tensor.shape, float(value)))


def open_later(gate: Any) -> None:
    """Opens a gate after a time in which work that does not wait for it would be done."""
    time.sleep(0.03)
    gate.open()


def creation_and_copies() -> None:
    pretended.load()
    assert torch.empty(2, 3, device="pretended").device == torch.device(DEVICE)
    assert same(torch.zeros(3, device=DEVICE), 0)
    assert same(torch.ones(3, device=NEXT), 1)
    assert torch.tensor([1, 2], device=DEVICE).tolist() == [1, 2]
    assert torch.arange(3, device=DEVICE).tolist() == [0, 1, 2]
    source = torch.randn(4, 5)
    there = source.to("pretended")
    assert torch.equal(there.cpu(), source)
    assert torch.equal(there.t().cpu(), source.t())
    assert torch.equal(there.double().to(NEXT).to(torch.float32).cpu(), source)
    assert "device='pretended:0'" in repr(there)
    file = io.BytesIO()
    torch.save(there, file)
    file.seek(0)
    loaded = torch.load(file)
    assert loaded.device == there.device
    assert torch.equal(loaded.cpu(), source)
    with torch.get_device_module("pretended").device(1):
        assert torch.empty(1, device="pretended").device == torch.device(NEXT)


def views_and_storage() -> None:
    pretended.load()
    base = torch.arange(12.0, device=DEVICE)
    base.view(3, 4)[1:, ::2].add_(100)
    expected = torch.arange(12.0)
    expected.view(3, 4)[1:, ::2].add_(100)
    assert torch.equal(base.cpu(), expected)
    assert torch.equal(
        base.as_strided((2, 2), (5, 1), 1).cpu(), expected.as_strided((2, 2), (5, 1), 1)
    )
    assert base.view(3, 4)[1].data_ptr() == base.data_ptr() + 16
    base.unfold(0, 2, 6).mul_(2)
    expected.unfold(0, 2, 6).mul_(2)
    torch.view_as_real(torch.view_as_complex(base.view(6, 2))).add_(1)
    expected.add_(1)
    assert torch.equal(base.view(3, 4).t().resize_(4, 3).cpu(), expected.view(3, 4).t())
    assert torch.equal(base.resize_(20)[:12].cpu(), expected)
    base.untyped_storage().resize_(0)
    assert base.untyped_storage().nbytes() == 0
    base.untyped_storage().resize_(80)
    assert same(base.fill_(3), 3)
    other = torch.empty(0, device=DEVICE)
    other.set_(base.untyped_storage(), 4, (2, 3), (3, 1))
    assert same(other, 3)


def operators_equal_the_cpu() -> None:
    pretended.load()
    torch.manual_seed(5)
    index = torch.tensor([3, 0, 3])
    calls: list[Callable[[Tensor, Tensor], Any]] = [
        lambda a, b: a + b,
        lambda a, b: a.add_(b, alpha=2).mul_(3).sub_(b),
        lambda a, b: (a @ b.t()).sum(0),
        lambda a, b: torch.cat([a, b], 1)[:, 1::2],
        lambda a, b: torch.where(a > b, a, 2),
        lambda a, b: a.index_select(0, index.to(a.device)) * a.new_tensor(2),
        lambda a, b: a.index_add_(0, index.to(a.device), b[:3]),
        lambda a, b: a.masked_fill_(b > 0, 7).cumsum(1),
        lambda a, b: a.sort(1, descending=True),
        lambda a, b: a.topk(2).values.unique(),
        lambda a, b: torch.nonzero(a > b),
        lambda a, b: torch._foreach_mul([a, b], 2),
        lambda a, b: torch.maximum(a, b, out=torch.empty_like(a)),
        lambda a, b: torch.stack([a, b]).flatten(0, 1).copy_(b[0]),
        lambda a, b: torch.add(a, b, out=torch.empty(0, dtype=a.dtype, device=a.device)),
    ]
    for dtype in (torch.float32, torch.int64, torch.bfloat16):
        a, b = (torch.randn(4, 6).mul(10).to(dtype) for _ in range(2))
        for number, call in enumerate(calls):
            expected = call(a.clone(), b.clone())
            got = call(a.to(DEVICE), b.to(DEVICE))
            for mine, theirs in zip(tensors(got), tensors(expected), strict=True):
                assert mine.device == torch.device(DEVICE), (number, dtype)
                assert torch.equal(mine.cpu(), theirs), (number, dtype)


def tensors(result: Tensor | tuple[Tensor, ...] | list[Tensor]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def trained(model: nn.Module, device: str, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    torch.manual_seed(1)
    for _ in range(4):
        model(torch.randn(3, 4).to(device)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [parameter.detach().cpu() for parameter in model.parameters()]


def training_equals_the_cpu() -> None:
    pretended.load()
    makers: list[Callable[[Any], torch.optim.Optimizer]] = [
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
    ]
    for make in makers:
        model = small_model()
        there = copy.deepcopy(model).to(DEVICE)
        there = copy.deepcopy(there)
        expected = trained(model, "cpu", make(model.parameters()))
        got = trained(there, DEVICE, make(there.parameters()))
        assert all(torch.equal(*pair) for pair in zip(got, expected, strict=True))


def streams_without_an_event() -> None:
    native = pretended.load()
    value, side = filled(), pretended.Stream()
    with side:
        gate = native.hold()
        value.fill_(5)
    assert same(value + 1, 1)
    gate.open()
    side.synchronize()
    assert same(value + 1, 6)


def streams_with_an_event() -> None:
    native = pretended.load()
    value, side, event = filled(), pretended.Stream(), pretended.Event()
    with side:
        gate = native.hold()
        value.fill_(5)
        event.record()
    event.wait()
    after = value + 1
    open_later(gate)
    assert same(after, 6)
    side.wait_stream(torch.accelerator.current_stream())
    with side:
        assert same(after * 2, 12)


def stream_that_is_current() -> None:
    pretended.load()
    current = torch.accelerator.current_stream
    default, side, there = current(), pretended.Stream(), pretended.Stream(NEXT)
    with side:
        assert current() == side
        assert current(NEXT) != there
        with there:
            assert current(NEXT) == there
    assert current() == default


def copies_wait_or_do_not() -> None:
    native = pretended.load()
    value, host = filled(), torch.zeros(1000)
    gate = native.hold()
    value.fill_(2)
    host.copy_(value, non_blocking=True)
    sent = torch.ones(1000)
    late = sent.to(DEVICE, non_blocking=True)
    sent.fill_(9)
    assert same(host, 0)
    gate.open()
    assert same(late, 9)  # the copy has read what the host wrote after the call
    assert same(host, 2)
    native.sleep(20)
    assert same(value.fill_(3), 3)


def devices_are_ordered_by_copies() -> None:
    native = pretended.load()
    here, there = filled(), torch.zeros(1000, device=NEXT)
    gate = native.hold()
    here.fill_(3)
    there.copy_(here)
    here.fill_(4)
    there.add_(1)
    open_later(gate)
    assert same(there, 4)


def events_and_queries() -> None:
    native = pretended.load()
    event = pretended.Event()
    assert event.query()
    gate = native.hold()
    event.record()
    stream = torch.accelerator.current_stream()
    assert not event.query()
    assert not stream.query()
    gate.open()
    event.synchronize()
    assert event.query()
    torch.accelerator.synchronize()
    assert stream.query()


def memory_freed_with_work_pending() -> None:
    native = pretended.load()
    native.overwrite_freed(True)
    value = filled(2)
    gate = native.hold()
    doubled = value * 2
    del value
    taken = filled_later(9)
    open_later(gate)
    native.await_freed()
    assert same(doubled, 4)
    assert same(taken, 9)


def memory_used_by_another_stream() -> None:
    native = pretended.load()
    native.overwrite_freed(True)
    for recorded in (True, False):
        value, side = filled(2), pretended.Stream()
        with side:
            gate = native.hold()
            doubled = value * 2
        if recorded:
            value.record_stream(side)
        del value
        if not recorded:
            native.await_freed()  # which no stream keeps from ending
        open_later(gate)
        side.synchronize()
        assert bool(doubled.isnan().all()) is not recorded  # bytes of 0xFF are not a number
        assert recorded == same(doubled, 4)
        native.await_freed()


def pinned_memory() -> None:
    pretended.load()
    pinned = torch.arange(5.0).pin_memory()
    assert pinned.is_pinned()
    assert not torch.arange(5.0).is_pinned()
    assert torch.equal(pinned.to(DEVICE, non_blocking=True).cpu(), torch.arange(5.0))
    assert torch.empty(3, pin_memory=True).is_pinned()


def temporary_tensors_while_waiting() -> None:
    """Streams let go of the host's tensors while this thread waits in each possible way."""
    pretended.load()
    event, stream = pretended.Event(), torch.accelerator.current_stream()
    waits = (torch.accelerator.synchronize, stream.synchronize, event.synchronize)
    for number in range(60):
        there = torch.full((100,), float(number)).to(DEVICE, non_blocking=True)
        event.record()
        waits[number % 3]()
        assert same(there, number)


def late_failure_is_raised() -> None:
    pretended.load()
    value = filled()
    value[torch.tensor([2000])] = 1.0
    with pytest.raises(RuntimeError, match=r"earlier work .* out of bounds"):
        torch.accelerator.synchronize()
    torch.accelerator.synchronize()


def accelerator_and_runtime() -> None:
    native = pretended.load()
    assert pretended.load() is native
    assert torch.accelerator.current_accelerator() == torch.device("pretended")
    assert (
        torch.accelerator.device_count() == torch.get_device_module("pretended").device_count() == 2
    )
    assert '"fastgpu.DeviceRuntime"' in repr(native.runtime())
    with pytest.raises(RuntimeError, match="there is no device"):
        torch.empty(1, device="pretended:2")


def fake_group() -> dist.ProcessGroup:
    """Makes a group of one rank, whose collectives do nothing."""
    from torch.testing._internal.distributed import fake_pg  # noqa: F401  registers the backend

    group = dist.new_group([0], backend="cpu:gloo,pretended:fake", timeout=timedelta(seconds=60))
    assert isinstance(group, dist.ProcessGroup)
    return group


def keep(bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Returns the sum of one rank."""
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


def torch_ddp() -> None:
    pretended.load()
    model = small_model()
    expected = trained(model, "cpu", torch.optim.SGD(model.parameters(), lr=0.1))
    group = fake_group()
    for device_ids in (None, [0]):
        there = nn.parallel.DistributedDataParallel(
            small_model().to(DEVICE), device_ids=device_ids, process_group=group
        )
        there.register_comm_hook(None, lambda _, bucket: keep(bucket))
        got = trained(there, DEVICE, torch.optim.SGD(there.parameters(), lr=0.1))
        assert all(torch.equal(*pair) for pair in zip(got, expected, strict=True))


def torch_fsdp() -> None:
    pretended.load()
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    model = small_model()
    expected = trained(model, "cpu", torch.optim.AdamW(model.parameters(), lr=0.1))
    mesh = DeviceMesh.from_group(fake_group(), "pretended")
    there = small_model().to(DEVICE)
    for layer in (there[0], there[2], there):  # type: ignore[index]
        fully_shard(layer, mesh=mesh)
    trained(there, DEVICE, torch.optim.AdamW(there.parameters(), lr=0.1))
    for parameter, value in zip(there.parameters(), expected, strict=True):
        assert isinstance(parameter, DTensor)
        assert torch.equal(parameter.to_local().cpu(), value)
