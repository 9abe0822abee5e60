"""Sizes as people write them: 8, 64K, 1.5M, 2GiB. K, M and G are powers of 1024."""

from __future__ import annotations

import argparse
import re

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Returns the bytes that `text` means.

    Raises:
        argparse.ArgumentTypeError: `text` is no size, or not a whole number of bytes.
    """
    match = PATTERN.fullmatch(text.strip())
    if not match:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size: write a number and perhaps K, M or G, such as 8, 64K, 1.5M"
        )
    size = float(match[1]) * UNITS[match[2].upper()]
    if size != int(size):
        raise argparse.ArgumentTypeError(f"{text!r} is {size} bytes: not a whole number")
    return int(size)


def format_size(size_bytes: int) -> str:
    """Returns `size_bytes` in the largest unit that leaves a whole number: 65536 is 64K."""
    for name, unit in reversed(UNITS.items()):
        if size_bytes >= unit and size_bytes % unit == 0:
            return f"{size_bytes // unit}{name}"
    return str(size_bytes)


def size_range(begin: int, end: int, factor: float, step: int | None = None) -> list[int]:
    """Returns the sizes from `begin` to `end`, both included where the steps meet them.

    Args:
        begin: The first size in bytes.
        end: The largest size in bytes.
        factor: What each size is multiplied by to give the next, when there is no `step`.
        step: The bytes to add to each size to give the next.

    Raises:
        ValueError: No size lies in the range, or the sizes would not grow.
    """
    if begin > end:
        raise ValueError(f"the first size, {begin}, is above the last, {end}")
    if step is not None:
        if step < 1:
            raise ValueError(f"a step of {step} bytes does not grow")
        return list(range(begin, end + 1, step))
    if factor <= 1:
        raise ValueError(f"a factor of {factor} does not grow")
    if begin == 0 < end:
        raise ValueError("no factor leads away from size 0: give a step")
    sizes = [begin]
    while (following := max(int(sizes[-1] * factor), sizes[-1] + 1)) <= end:
        sizes.append(following)
    return sizes
