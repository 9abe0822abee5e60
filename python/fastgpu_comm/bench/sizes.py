"""Sizes in bytes as users write them: 8, 64K, 1.5M, 2GiB. The units are powers of 1024."""

from __future__ import annotations

import argparse
import re

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
MAX_SIZE = 2**60
MAX_SIZES = 4096
PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Returns the size in bytes that `text` denotes.

    Raises:
        argparse.ArgumentTypeError: `text` is not a size, not a whole number of bytes, or too large.
    """
    match = PATTERN.fullmatch(text.strip())
    if not match:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size: write a number with an optional unit, such as 8, 64K or 1.5M"
        )
    size = float(match[1]) * UNITS[match[2].upper()]
    if size > MAX_SIZE:
        raise argparse.ArgumentTypeError(f"{text!r} is too large: the most is {MAX_SIZE >> 40}T")
    if size != int(size):
        raise argparse.ArgumentTypeError(f"{text!r} is {size} bytes: not a whole number")
    return int(size)


def format_size(size_bytes: int) -> str:
    """Returns `size_bytes` in the largest unit that gives a whole number: 65536 is 64K."""
    for name, unit in reversed(UNITS.items()):
        if size_bytes >= unit and size_bytes % unit == 0:
            return f"{size_bytes // unit}{name}"
    return str(size_bytes)


def size_range(begin: int, end: int, factor: float, step: int | None = None) -> list[int]:
    """Returns growing sizes from `begin` to at most `end`.

    Args:
        begin: The first size in bytes.
        end: The largest size in bytes.
        factor: The factor from each size to the next, if `step` is None.
        step: The bytes from each size to the next.

    Raises:
        ValueError: The range is empty or has more than MAX_SIZES sizes, or they would not grow.
    """
    if begin > end:
        raise ValueError(f"the first size, {begin}, is above the last size, {end}")
    if step is not None:
        if step < 1:
            raise ValueError(f"with a step of {step} bytes the sizes do not grow: use 1 or more")
        if (end - begin) // step >= MAX_SIZES:
            raise ValueError(
                f"a step of {step} bytes gives over {MAX_SIZES} sizes: use a larger one"
            )
        return list(range(begin, end + 1, step))
    if factor <= 1:
        raise ValueError(f"with a factor of {factor} the sizes do not grow: use more than 1")
    if begin == 0 < end:
        raise ValueError("a factor leads nowhere from size 0: use a step instead")
    sizes = [begin]
    while (following := max(int(sizes[-1] * factor), sizes[-1] + 1)) <= end:
        sizes.append(following)
        if len(sizes) > MAX_SIZES:
            raise ValueError(f"a factor of {factor} gives over {MAX_SIZES} sizes: use a larger one")
    return sizes
