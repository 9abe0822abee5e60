"""What the buffers hold, and what must come out: values from a formula, so any rank knows them all.

Element `index` of rank `rank`'s input depends on `index` modulo a prime, so that chunks, shards and
lanes never line up with it, and what any reduction gives is worked out on one period in float64.
The values are small whole numbers: a sum of a few is exact in every dtype.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

PERIOD = 1009
VALUES = 4
BLOCK = 2**20  # elements compared at a time, so that checking a large buffer takes little memory

REDUCTIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "sum": torch.add,
    "avg": torch.add,
    "prod": torch.mul,
    "min": torch.minimum,
    "max": torch.maximum,
    "band": lambda a, b: a.long().bitwise_and(b.long()).double(),
    "bor": lambda a, b: a.long().bitwise_or(b.long()).double(),
    "bxor": lambda a, b: a.long().bitwise_xor(b.long()).double(),
}
BITWISE = ("band", "bor", "bxor")


def why_not(reduction: str, dtype: torch.dtype) -> str | None:
    """Returns why `reduction` means nothing for `dtype`; None when it does."""
    real_number = dtype.is_floating_point or dtype.is_complex
    if reduction in BITWISE and real_number:
        return f"{reduction} is for whole numbers and bool, not {dtype}"
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
    if reduction == "prod":  # one rank in each place holds a 2, so that the product never grows
        return torch.where((index * 7 + 3) % world_size == rank, 2.0, 1.0).double()
    mixed = (index + 1) * (2654435761 + 40503 * (2 * rank + 1)) >> 16
    return (mixed % (2 if dtype == torch.bool else VALUES)).double()


@functools.cache
def reduced_period(world_size: int, reduction: str, dtype: torch.dtype) -> torch.Tensor:
    """Returns one period of what the reduction over all ranks' inputs gives, in float64."""
    total = functools.reduce(
        REDUCTIONS[reduction],
        [period(rank, world_size, reduction, dtype) for rank in range(world_size)],
    )
    return total / world_size if reduction == "avg" else total


def stretch(one_period: torch.Tensor, start: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    """Returns elements `start` to `start + count` of the endless repetition of `one_period`."""
    repeats = -(-count // PERIOD)
    if not (dtype.is_floating_point or dtype.is_complex):
        one_period = one_period.long()  # from where a sum that is too large wraps round
    return one_period.roll(-(start % PERIOD)).to(dtype).repeat(repeats)[:count]


def count_wrong(got: torch.Tensor, expected: torch.Tensor, tolerance: float) -> int:
    """Returns how many elements of `got` are further from `expected` than `tolerance` of it."""
    wide = torch.complex128 if got.dtype.is_complex else torch.float64
    wrong = 0
    for start in range(0, got.numel(), BLOCK):
        wanted = expected[start : start + BLOCK].to(wide)
        error = (got[start : start + BLOCK].to(wide) - wanted).abs()
        near = error <= tolerance * wanted.abs()
        wrong += int((~near).sum())  # a NaN is not near
    return wrong


def tolerance(reduction: str, world_size: int, dtype: torch.dtype) -> float:
    """Returns the relative error that rounding may leave: 0 where nothing need be rounded."""
    if reduction not in ("sum", "avg") or not (dtype.is_floating_point or dtype.is_complex):
        return 0.0
    eps = torch.finfo(dtype).eps
    if reduction == "sum" and (VALUES - 1) * world_size <= 2 / eps:
        return 0.0
    return min(0.5, eps / 2 * world_size)
