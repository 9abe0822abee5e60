"""Sizes are read as people write them, and the range walks from the first to the last."""

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgpu_comm.bench.sizes import format_size, parse_size, size_range


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("8", 8),
        ("64K", 65536),
        ("64k", 65536),
        ("64KB", 65536),
        ("64KiB", 65536),
        (" 1.5M ", 1572864),
        ("2G", 2 << 30),
        ("16B", 16),
        ("8 M", 8 << 20),
    ],
)
def test_sizes_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "K", "-1", "4z", "1.5", "0.3K", "1 2", "1e3"])
def test_what_is_no_size_is_named(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="not a"):
        parse_size(text)


@given(st.integers(min_value=0, max_value=1 << 50))
def test_a_formatted_size_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


def test_format_takes_the_largest_whole_unit() -> None:
    assert [format_size(size) for size in (0, 8, 1000, 1024, 1536, 64 << 20)] == [
        "0",
        "8",
        "1000",
        "1K",
        "1536",
        "64M",
    ]


def test_range_by_factor_includes_both_ends() -> None:
    assert size_range(8, 512, 4) == [8, 32, 128, 512]
    assert size_range(8, 511, 4) == [8, 32, 128]
    assert size_range(1, 4, 1.1) == [1, 2, 3, 4]


def test_range_by_step() -> None:
    assert size_range(0, 10, 2, step=5) == [0, 5, 10]


@pytest.mark.parametrize(
    ("begin", "end", "factor", "step"),
    [(9, 8, 2, None), (8, 64, 1, None), (8, 64, 2, 0), (0, 8, 2, None)],
)
def test_ranges_that_go_nowhere_are_refused(
    begin: int, end: int, factor: float, step: int | None
) -> None:
    with pytest.raises(ValueError, match=r"above|grow|leads"):
        size_range(begin, end, factor, step)


@given(
    st.integers(min_value=1, max_value=1 << 30),
    st.integers(min_value=0, max_value=1 << 30),
    st.floats(min_value=1.01, max_value=16),
)
def test_a_range_grows_from_the_first_to_at_most_the_last(
    begin: int, more: int, factor: float
) -> None:
    sizes = size_range(begin, begin + more, factor)
    assert sizes[0] == begin
    assert sizes[-1] <= begin + more
    assert sizes == sorted(set(sizes))
