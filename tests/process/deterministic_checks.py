"""Checks of the bits of floating-point sums. Run by test_deterministic.py."""

from __future__ import annotations

import functools

import torch
import torch.distributed as dist
from tests.process.collective_checks import me_and_world
from tests.process.group_checks import default_group

import fastgpu_comm

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2)
COUNTS = (1, 5, 1000, 100_003)


@functools.cache
def rounded_values(rank: int, dtype: torch.dtype, count: int) -> torch.Tensor:
    """Returns a rank's input: numbers of many magnitudes, so that sums depend on their order.

    The caller must not change it.
    """
    generator = torch.Generator().manual_seed(count * 100 + rank)
    values = torch.randn(count, generator=generator, dtype=torch.float64)
    scales = 2.0 ** torch.randint(-6, 7, (count,), generator=generator).double()
    return (values * scales).to(dtype)


def added(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Returns the sum as the library rounds it: short floats are added in float32."""
    if left.dtype in (torch.float32, torch.float64):
        return left + right
    return (left.float() + right.float()).to(left.dtype)


def sum_in_order(parts: list[torch.Tensor]) -> torch.Tensor:
    """Returns the sum of the parts, one after the other, rounded after each."""
    total = parts[0]
    for part in parts[1:]:
        total = added(total, part)
    return total


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the bytes of a tensor."""
    return tensor.contiguous().view(torch.uint8)


def _everyone(dtype: torch.dtype, count: int) -> list[torch.Tensor]:
    return [rounded_values(rank, dtype, count) for rank in range(dist.get_world_size())]


def _group(lanes: int, placement: str, algorithm: str | None = None) -> dist.ProcessGroup:
    """Makes a group of all ranks. In `mixed` the last rank is reached over TCP alone."""
    rank, world = me_and_world()
    tcp = placement == "tcp" or (placement == "mixed" and rank == world - 1)
    options = fastgpu_comm.Options(
        lanes=lanes, transport="tcp" if tcp else "auto", algorithm=algorithm
    )
    group = dist.new_group(backend="fastgpu", pg_options=options)
    assert isinstance(group, dist.ProcessGroup)
    return group


def _check_rank_order(group: dist.ProcessGroup, dtype: torch.dtype, count: int) -> None:
    rank, world = me_and_world()
    inputs = _everyone(dtype, count)
    expected = sum_in_order(inputs)

    whole = inputs[rank].clone()
    dist.all_reduce(whole, group=group)
    assert torch.equal(bits(whole), bits(expected)), ("all_reduce", dtype, count)

    # Buckets of uneven sizes, all in flight at once.
    buckets = list(inputs[rank].clone().split(1 + count // 3))
    works = [dist.all_reduce(bucket, group=group, async_op=True) for bucket in buckets]
    for work, bucket, part in zip(works, buckets, expected.split(1 + count // 3), strict=True):
        assert work is not None
        work.wait()
        assert torch.equal(bits(bucket), bits(part)), ("buckets", dtype, count)

    to_root = inputs[rank].clone()
    dist.reduce(to_root, world - 1, group=group)
    if rank == world - 1:
        assert torch.equal(bits(to_root), bits(expected)), ("reduce", dtype, count)

    share = count // world
    if share > 0:
        scattered = torch.zeros(share, dtype=dtype)
        dist.reduce_scatter_tensor(scattered, inputs[rank][: share * world].clone(), group=group)
        part = expected[rank * share : (rank + 1) * share]
        assert torch.equal(bits(scattered), bits(part)), ("reduce_scatter", dtype, count)


def deterministic(lanes: int, placement: str) -> None:
    """With FASTGPU_DETERMINISTIC=1 every sum has the bits of the sum in rank order."""
    group = _group(lanes, placement)
    for dtype in DTYPES:
        for count in COUNTS:
            _check_rank_order(group, dtype, count)
    dist.destroy_process_group(group)


def deterministic_in_the_default_group() -> None:
    """The same in the default group, whose transport and lanes come from the environment."""
    for dtype in DTYPES:
        for count in COUNTS:
            _check_rank_order(default_group(), dtype, count)


def same_bits_everywhere(lanes: int, placement: str, algorithm: str) -> None:
    """Without FASTGPU_DETERMINISTIC all ranks still have the same bits."""
    rank, world = me_and_world()
    group = _group(lanes, placement, algorithm)
    for dtype in DTYPES:
        for count in COUNTS:
            mine = rounded_values(rank, dtype, count).clone()
            dist.all_reduce(mine, group=group)
            results = [torch.zeros_like(bits(mine)) for _ in range(world)]
            dist.all_gather(results, bits(mine), group=group)
            for peer, result in enumerate(results):
                assert torch.equal(result, bits(mine)), (peer, algorithm, dtype, count)
    dist.destroy_process_group(group)


def order_shows() -> None:
    """A ring does not sum in rank order, and the bits of these inputs' sums differ."""
    rank, _ = me_and_world()
    group = _group(1, "shm", "ring")
    for dtype in DTYPES:
        inputs = _everyone(dtype, COUNTS[-1])
        mine = inputs[rank].clone()
        dist.all_reduce(mine, group=group)
        assert not torch.equal(bits(mine), bits(sum_in_order(inputs))), dtype
    dist.destroy_process_group(group)
