"""Checks of all_reduce with encoded frames. Run by test_codecs.py on every rank."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world

import fastgpu_comm

# The most that one rounding moves an element, as a part of the largest value of its block.
ROUNDING = {"fp16": 2.0**-11, "bf16": 2.0**-8, "int8": 1 / 128, "int4": 1 / 8}
BYTES_PER_ELEMENT = {
    "fp16": 2.0,
    "bf16": 2.0,
    "int8": 1 + 2 / 64,
    "int4": 0.5 + 2 / 32,
    "topk": 2 / 64 + 1 / 4096,
    "1bit": 1 / 8 + 2 / 128,
}
COUNTS = (16_384, 30_011, 200_003)  # from the least size that is encoded


def _group(codec: str) -> dist.ProcessGroup:
    options = fastgpu_comm.Options(codec=codec)
    group = dist.new_group(backend="fastgpu", pg_options=options)
    assert isinstance(group, dist.ProcessGroup)
    return group


def _gradient(rank: int, count: int) -> torch.Tensor:
    """Returns numbers like those of a gradient: a few are large, and magnitudes change slowly."""
    generator = torch.Generator().manual_seed(count * 100 + rank)
    scale = 10.0 ** torch.linspace(-4, 0, count)
    return torch.randn(count, generator=generator) * scale


def _same_everywhere(tensor: torch.Tensor) -> None:
    copies = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(copies, tensor)
    for copy in copies:
        assert torch.equal(copy.view(torch.int32), tensor.view(torch.int32))


def sums(codec: str) -> None:
    """The sum and the mean, within two roundings of the exact ones, and the same on all ranks."""
    rank, world = me_and_world()
    group = _group(codec)
    for count in COUNTS:
        for op, divisor in ((dist.ReduceOp.SUM, 1), (dist.ReduceOp.AVG, world)):
            parts = [_gradient(each, count) for each in range(world)]
            tensor = parts[rank].clone()
            dist.all_reduce(tensor, op, group=group)
            exact = torch.stack(parts).double().sum(0)
            # No block is larger than its neighbourhood of two blocks' length on either side.
            reach = torch.stack([*parts, exact.float()]).abs()
            reach = torch.nn.functional.max_pool1d(reach, 257, stride=1, padding=128).sum(0)
            bound = (1.01 * ROUNDING[codec] * reach + 1e-6 * exact.abs()) / divisor
            assert bool(((tensor.double() - exact / divisor).abs() <= bound).all())
            assert not torch.equal(tensor.double(), exact / divisor)
            _same_everywhere(tensor)


def half_precision(codec: str, dtype: torch.dtype) -> None:
    """float16 and bfloat16 of any strides have the sums of float32, rounded."""
    rank, world = me_and_world()
    group = _group(codec)
    for strided in (False, True):
        parts = [_gradient(each, 300_000).to(dtype) for each in range(world)]
        mean, total = parts[rank].float(), parts[rank].float()
        dist.all_reduce(mean, dist.ReduceOp.AVG, group=group)
        dist.all_reduce(total, group=group)
        tensor = parts[rank].clone().view(1000, 300)
        if strided:
            tensor = tensor.t().contiguous().t()
        dist.all_reduce(tensor, dist.ReduceOp.AVG, group=group)
        assert torch.equal(tensor.flatten(), mean.to(dtype))
        listed = [parts[rank].clone(), torch.ones(3, dtype=dtype)]
        with dist._coalescing_manager(group):
            for each in listed:
                dist.all_reduce(each, group=group)
        assert torch.equal(listed[0], total.to(dtype))
        assert torch.equal(listed[1], torch.full((3,), world, dtype=dtype))


def bytes_sent(codec: str, dtype: torch.dtype = torch.float32) -> None:
    """The encoded bytes travel, and nothing else."""
    _, world = me_and_world()
    count = world * 65_536
    group = _group(codec)
    tensor = torch.ones(count, dtype=dtype)
    dist.all_reduce(tensor, group=group)
    before = fastgpu_comm.stats(group)["bytes_sent"]
    dist.all_reduce(tensor, group=group)
    sent = fastgpu_comm.stats(group)["bytes_sent"] - before
    assert sent == 2 * (world - 1) * 65_536 * BYTES_PER_ELEMENT[codec]


def exact_otherwise(codec: str) -> None:
    """The codec leaves alone: small tensors, float64, integers, MAX, broadcast."""
    rank, world = me_and_world()
    group = _group(codec)
    for dtype, count in ((torch.float32, 16_383), (torch.float64, 20_000), (torch.int32, 40_000)):
        tensor = (
            torch.full((count,), 1 + rank, dtype=dtype)
            * 4097
            / (3 if dtype.is_floating_point else 1)
        )
        tensor = tensor.to(dtype)
        expected = sum(
            (
                torch.full((count,), 1 + each, dtype=dtype)
                * 4097
                / (3 if dtype.is_floating_point else 1)
            ).to(dtype)
            for each in range(world)
        )
        dist.all_reduce(tensor, group=group)
        torch.testing.assert_close(tensor, expected)
    tensor = _gradient(rank, 30_011)
    dist.all_reduce(tensor, dist.ReduceOp.MAX, group=group)
    expected = torch.stack([_gradient(each, 30_011) for each in range(world)]).amax(0)
    assert torch.equal(tensor, expected)
    tensor = _gradient(0, 30_011) if rank == 0 else torch.empty(30_011)
    dist.broadcast(tensor, 0, group=group)
    assert torch.equal(tensor, _gradient(0, 30_011))


def not_finite(codec: str) -> None:
    """A NaN or an infinity of one rank reaches all ranks; other blocks are as without it."""
    rank, world = me_and_world()
    group = _group(codec)
    for value in (float("nan"), float("inf"), -float("inf")):
        tensor = torch.ones(50_000)
        if rank == world - 1:
            tensor[12_345] = value
        dist.all_reduce(tensor, group=group)
        assert not bool(tensor[12_345].isfinite())
        assert int((~tensor.isfinite()).sum()) <= 64
        assert bool((tensor[20_000:] == world).all())
        _same_everywhere(tensor)


def mismatch_of_dtypes() -> None:
    """The codec widens float16 and bfloat16 to float32, and still they do not match."""
    rank, _ = me_and_world()
    group = _group("int8")
    dtype = (torch.float16, torch.bfloat16, torch.float32)[rank]
    with pytest.raises(fastgpu_comm.CollectiveMismatchError, match=r"dtype=b?float(16|32), "):
        dist.all_reduce(torch.ones(100_000, dtype=dtype), group=group)


def mismatch() -> None:
    """Ranks that give a group different codecs learn of it when the group is made."""
    rank, _ = me_and_world()
    with pytest.raises(fastgpu_comm.CollectiveMismatchError, match=r"codec=int8.*codec=int4"):
        _group("int8" if rank == 0 else "int4")
