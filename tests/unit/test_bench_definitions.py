"""Sizes, counts and bandwidths are nccl-tests', and the check finds what is wrong."""

import pytest
import torch
import torch.distributed as dist

from fastgpu_comm.bench import data
from fastgpu_comm.bench.calls import PREPARE
from fastgpu_comm.cli.bench import DTYPES
from fastgpu_comm.collectives import COLLECTIVES, REDUCTIONS

BUS_FACTORS = {  # for 4 ranks, from the tables that nccl-tests' documentation gives
    "all_reduce": 1.5,
    "all_gather": 0.75,
    "reduce_scatter": 0.75,
    "all_to_all": 0.75,
    "gather": 0.75,
    "scatter": 0.75,
    "broadcast": 1.0,
    "reduce": 1.0,
    "send_recv": 1.0,
    "barrier": 1.0,
}


def test_bus_factors() -> None:
    assert {name: c.bus_factor(4) for name, c in COLLECTIVES.items()} == BUS_FACTORS


def test_the_size_is_the_whole_array_where_ranks_hold_shares() -> None:
    for name in ("all_gather", "reduce_scatter", "all_to_all", "gather", "scatter"):
        collective = COLLECTIVES[name]
        assert collective.count(1024, 4, 4) == 64
        assert collective.size_bytes(64, 4, 4) == 1024
    for name in ("all_reduce", "broadcast", "reduce", "send_recv"):
        assert COLLECTIVES[name].count(1024, 4, 4) == 256


def test_every_collective_and_reduction_can_be_measured() -> None:
    assert set(PREPARE) == set(COLLECTIVES)
    for reduction in REDUCTIONS.values():
        assert hasattr(dist.ReduceOp, reduction.torch_op)
        assert hasattr(torch, reduction.combine)


def usable() -> list[tuple[str, str]]:
    return [(r, d) for r in REDUCTIONS for d in DTYPES if not data.why_not(r, getattr(torch, d))]


@pytest.mark.parametrize(("redop", "name"), usable())
def test_inputs_are_exact_in_their_dtype_and_ranks_differ(redop: str, name: str) -> None:
    dtype = getattr(torch, name)
    periods = [data.period(rank, 3, redop, dtype) for rank in range(3)]
    for one_period in periods:
        assert torch.equal(one_period.to(dtype).to(torch.complex128).real, one_period)
    assert not torch.equal(periods[0], periods[1])


@pytest.mark.parametrize(("redop", "name"), usable())
def test_leaving_out_any_rank_is_noticed(redop: str, name: str) -> None:
    dtype = getattr(torch, name)
    allowed = data.tolerance(redop, 3, dtype)
    right = data.stretch(data.reduced_period(3, redop, dtype), 0, 2 * data.PERIOD, dtype)
    assert data.count_wrong(right, right, allowed) == 0
    for left_out in range(3):
        rest = [data.period(rank, 3, redop, dtype) for rank in range(3) if rank != left_out]
        partial = data.reduce("sum", rest) / 3 if redop == "avg" else data.reduce(redop, rest)
        wrong = data.stretch(partial, 0, 2 * data.PERIOD, dtype)
        assert data.count_wrong(wrong, right, allowed) > 0


@pytest.mark.parametrize("start", [0, 1, data.PERIOD - 1, data.PERIOD, 5 * data.PERIOD + 7])
@pytest.mark.parametrize("count", [0, 1, data.PERIOD, 2 * data.PERIOD + 3])
def test_a_stretch_goes_on_where_the_one_before_ended(start: int, count: int) -> None:
    one_period = data.period(1, 2, "sum", torch.int32)
    whole = data.stretch(one_period, 0, start + count, torch.int32)
    assert torch.equal(data.stretch(one_period, start, count, torch.int32), whole[start:])


def test_one_wrong_element_is_counted_wherever_it_is() -> None:
    right = data.stretch(data.reduced_period(2, "sum", torch.float32), 0, 3_000_000, torch.float32)
    for index in (0, data.BLOCK - 1, data.BLOCK, len(right) - 1):
        got = right.clone()
        got[index] += 1
        assert data.count_wrong(got, right, data.tolerance("sum", 2, torch.float32)) == 1
        got[index] = float("nan")
        assert data.count_wrong(got, right, data.tolerance("sum", 2, torch.float32)) == 1


def test_rounding_is_allowed_where_something_is_added_only() -> None:
    right = torch.full((10,), 3.0, dtype=torch.bfloat16)
    rounded = right + 2**-6  # the next number that bfloat16 has
    for reduction, world_size, wrong in [
        ("avg", 2, 0),
        ("sum", 128, 0),
        ("sum", 2, 10),  # so few small numbers have an exact sum
        ("max", 128, 10),
        ("none", 128, 10),
    ]:
        allowed = data.tolerance(reduction, world_size, torch.bfloat16)
        assert data.count_wrong(rounded, right, allowed) == wrong


def test_a_sum_too_large_for_its_integer_wraps() -> None:
    total = data.stretch(data.reduced_period(100, "sum", torch.int8), 0, data.PERIOD, torch.int8)
    one_by_one = torch.zeros(data.PERIOD, dtype=torch.int8)
    for rank in range(100):
        one_by_one += data.period(rank, 100, "sum", torch.int8).to(torch.int8)
    assert torch.equal(total, one_by_one)
