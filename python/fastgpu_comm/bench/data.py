"""The values in the benchmark's buffers, and the results that collectives must give.

Every rank can compute every other rank's values, because they come from a formula: element `index`
of a rank's input depends on `index` modulo a prime, so that no boundary of a chunk, shard or lane
coincides with the period. A reduction's result is computed for one period. The values are small
whole numbers, so a sum over a few ranks is exact in every dtype.
"""

from __future__ import annotations

import functools

import torch

from fastgpu_comm.collectives import REDUCTIONS

PERIOD = 1009
VALUES = 4
BLOCK = 2**20  # elements compared at a time, to check a large buffer with little memory

BITWISE = ("band", "bor", "bxor")


def why_not(reduction: str, dtype: torch.dtype) -> str | None:
    """Returns why `reduction` is not defined for `dtype`, or None if it is."""
    real_number = dtype.is_floating_point or dtype.is_complex
    if reduction in BITWISE and real_number:
        return f"{reduction} is for integers and bool, not {dtype}"
    if reduction in ("min", "max") and dtype.is_complex:
        return f"complex numbers have no order for {reduction}"
    if reduction == "avg" and not real_number:
        return f"avg is for floating-point numbers, not {dtype}"
    if reduction in ("sum", "prod") and dtype == torch.bool:
        return f"{reduction} is for numbers, not bool: use bor or band"
    return None


@functools.cache
def period(rank: int, world_size: int, reduction: str, dtype: torch.dtype) -> torch.Tensor:
    """Returns one period of rank `rank`'s input, in float64."""
    index = torch.arange(PERIOD)
    if reduction == "prod":  # at each index one rank has a 2 and the others 1: the product is 2
        return torch.where((index * 7 + 3) % world_size == rank, 2.0, 1.0).double()
    mixed = (index + 1) * (2654435761 + 40503 * (2 * rank + 1)) >> 16
    return (mixed % (2 if dtype == torch.bool else VALUES)).double()


@functools.cache
def reduced_period(world_size: int, reduction: str, dtype: torch.dtype) -> torch.Tensor:
    """Returns one period of the reduction over all ranks' inputs, in float64."""
    inputs = [period(rank, world_size, reduction, dtype) for rank in range(world_size)]
    return reduce(reduction, inputs)


def reduce(reduction: str, inputs: list[torch.Tensor]) -> torch.Tensor:
    """Returns the reduction of tensors of whole numbers, in float64."""
    combine = getattr(torch, REDUCTIONS[reduction].combine)
    total = functools.reduce(combine, [each.long() for each in inputs]).double()
    return total / len(inputs) if reduction == "avg" else total


def stretch(one_period: torch.Tensor, start: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    """Returns elements `start` to `start + count` of the endless repetition of `one_period`."""
    repeats = -(-count // PERIOD)
    if not (dtype.is_floating_point or dtype.is_complex):
        one_period = one_period.long()  # from int64, a sum too large for `dtype` wraps round
    return one_period.roll(-(start % PERIOD)).to(dtype).repeat(repeats)[:count]


def count_wrong(got: torch.Tensor, expected: torch.Tensor, tolerance: float) -> int:
    """Returns how many elements of `got` have a relative error above `tolerance`."""
    wide = torch.complex128 if got.dtype.is_complex else torch.float64
    wrong = 0
    for start in range(0, got.numel(), BLOCK):
        wanted = expected[start : start + BLOCK].to(wide)
        error = (got[start : start + BLOCK].to(wide) - wanted).abs()
        near = error <= tolerance * wanted.abs()
        wrong += int((~near).sum())  # a NaN is not near
    return wrong


def tolerance(reduction: str, world_size: int, dtype: torch.dtype) -> float:
    """Returns the relative error that rounding may cause; 0 if the result is exact."""
    if reduction not in ("sum", "avg") or not (dtype.is_floating_point or dtype.is_complex):
        return 0.0
    eps = torch.finfo(dtype).eps
    if reduction == "sum" and (VALUES - 1) * world_size <= 2 / eps:
        return 0.0
    return min(0.5, eps / 2 * world_size)
