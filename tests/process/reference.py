"""Inputs of all ranks, which every rank can compute, and the results of reducing them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

TORCH_VERSION = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
FP8 = (
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
)
OTHER_FP8 = (torch.float8_e8m0fnu,)  # moved, and never reduced
INTEGERS = (
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.uint16,
    torch.int32,
    torch.uint32,
    torch.int64,
    torch.uint64,
)
COMPLEX = (torch.complex64, torch.complex128)
ALL = (*FLOATS, *FP8, *INTEGERS, torch.bool, *COMPLEX)

ARITHMETIC = ("SUM", "PRODUCT", "MIN", "MAX")
BITWISE = ("BAND", "BOR", "BXOR")


def values(rank: int, dtype: torch.dtype, *size: int) -> torch.Tensor:
    """Returns rank's input: small whole numbers, so that every sum and product is exact."""
    generator = torch.Generator().manual_seed(1000 + rank)
    whole = torch.randint(1, 4, size, generator=generator)
    if dtype == torch.bool:
        return whole > 2
    if dtype.is_complex:
        imaginary = torch.randint(1, 3, size, generator=generator)
        return torch.complex(whole.double(), imaginary.double()).to(dtype)
    return whole.to(torch.float64).to(dtype) if dtype.is_floating_point else whole.to(dtype)


def ops_of(dtype: torch.dtype) -> tuple[str, ...]:
    """Returns the reductions that dist.all_reduce has for a dtype."""
    if dtype == torch.bool:
        return (*ARITHMETIC, *BITWISE)
    if dtype.is_complex:
        return ("SUM", "AVG", "PREMUL_SUM")  # torch itself refuses PRODUCT
    if dtype.is_floating_point:
        return (*ARITHMETIC, "AVG", "PREMUL_SUM")
    return (*ARITHMETIC, *BITWISE, "AVG")


def reduce_op(name: str) -> dist.ReduceOp:
    """Returns torch's object for a reduction; PREMUL_SUM by 0.5."""
    if name == "PREMUL_SUM":
        made: dist.ReduceOp = dist._make_nccl_premul_sum(0.5)
        return made
    found: dist.ReduceOp = getattr(dist.ReduceOp, name)
    return found


def _wide(dtype: torch.dtype) -> torch.dtype:
    if dtype == torch.bool or dtype.is_complex:
        return torch.complex128 if dtype.is_complex else torch.int64
    return torch.float64 if dtype.is_floating_point else torch.int64


def reduced(name: str, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns what a reduction of all ranks' inputs gives."""
    dtype = inputs[0].dtype
    stacked = torch.stack([part.to(_wide(dtype)) for part in inputs])
    result = stacked[0].clone()
    for part in stacked[1:]:
        if name == "PRODUCT":
            result = result * part
        elif name == "MIN":
            result = torch.minimum(result, part)
        elif name == "MAX":
            result = torch.maximum(result, part)
        elif name == "BAND":
            result = result & part
        elif name == "BOR":
            result = result | part
        elif name == "BXOR":
            result = result ^ part
        else:
            result = result + part
    if name == "AVG":
        exact = dtype.is_floating_point or dtype.is_complex
        result = result / len(inputs) if exact else result // len(inputs)
    if name == "PREMUL_SUM":
        result = result * 0.5
    if dtype == torch.bool:
        return result != 0 if name != "BXOR" else result % 2 != 0
    return result.to(dtype)


def same(result: torch.Tensor, expected: torch.Tensor) -> None:
    """Raises unless both hold the same numbers (to one rounding for the floats)."""
    assert result.dtype == expected.dtype, (result.dtype, expected.dtype)
    assert result.shape == expected.shape, (result.shape, expected.shape)
    if torch.equal(result, expected):  # assert_close imports torch.distributed.tensor: seconds
        return
    if result.dtype.is_floating_point and result.element_size() == 1:
        # fp8 is rounded at every hop: within a unit in the last place.
        unit = 0.25 if "e5m2" in str(result.dtype) else 0.125  # finfo's is wrong for e5m2fnuz
        torch.testing.assert_close(result.float(), expected.float(), rtol=unit, atol=0.0)
    elif result.dtype.is_floating_point or result.dtype.is_complex:
        torch.testing.assert_close(result, expected)
    else:
        raise AssertionError((result, expected))
