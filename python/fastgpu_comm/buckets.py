"""Splits gradient buckets: lists of parameters, by their index in torch's Reducer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Buckets = list[list[int]]


def split_by_size(
    buckets: Iterable[Sequence[int]], sizes: Sequence[int], limit: int | None
) -> Buckets:
    """Splits buckets into parts of at most `limit` bytes, in the order of their parameters.

    A parameter is never split, so a part of one parameter may be larger.

    Args:
        buckets: The buckets.
        sizes: The bytes of each parameter.
        limit: The most bytes of a part; None: buckets stay whole.
    """
    if limit is None:
        return [list(bucket) for bucket in buckets]
    parts: Buckets = []
    for bucket in buckets:
        size = limit + 1  # the first parameter begins a part
        for index in bucket:
            size += sizes[index]
            if size > limit:
                parts.append([])
                size = sizes[index]
            parts[-1].append(index)
    return parts


def split_by_kind(buckets: Iterable[Sequence[int]], encoded: Sequence[bool]) -> Buckets:
    """Splits buckets with encoded and other parameters in two, as GradientReducer does."""
    parts: Buckets = []
    for bucket in buckets:
        kinds = dict.fromkeys(encoded[index] for index in bucket)
        parts += [[index for index in bucket if encoded[index] == kind] for kind in kinds]
    return parts
