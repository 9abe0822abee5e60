"""fastgpu_comm.empty refuses what no memory can hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fastgpu_comm


@pytest.mark.parametrize(
    "size", [(2**61,), (2**61 + 512,), (2**40, 2**40), (2**62, 2**62, 4)], ids=str
)
def test_more_bytes_than_can_be_counted(size: tuple[int, ...]) -> None:
    with pytest.raises(MemoryError):
        fastgpu_comm.empty(*size, dtype=torch.float64)


@pytest.mark.parametrize("size", [(2**63,), (2**70, 2), ([2**63],)], ids=str)
def test_sizes_beyond_64_bits(size: tuple[Any, ...]) -> None:
    with pytest.raises(MemoryError, match="no memory can hold"):
        fastgpu_comm.empty(*size)


@pytest.mark.parametrize(
    "size",
    [
        *[(2, 3), ((2, 3),), ([2, 3],), (torch.Size((2, 3)),), (range(2, 4),)],
        *[(np.int64(2), torch.tensor(3)), (np.array([2, 3]),)],
    ],
    ids=str,
)
def test_sizes_are_integers_or_one_sequence_of_them(size: tuple[Any, ...]) -> None:
    assert fastgpu_comm.empty(*size).shape == (2, 3)


@pytest.mark.parametrize("size", [(2.5,), ("ab",), ([2, "3"],), (None,), (2, [3])], ids=str)
def test_other_sizes_are_refused_in_words(size: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match=r"the sizes must be integers, such as empty\(2, 3\)"):
        fastgpu_comm.empty(*size)


@pytest.mark.parametrize("dtype", ["float32", float, None])
def test_other_dtypes_are_refused_in_words(dtype: Any) -> None:
    with pytest.raises(TypeError, match=r"dtype must be a torch\.dtype, such as torch\.float32"):
        fastgpu_comm.empty(2, dtype=dtype)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("device", "text"),
    [("meta", "allowed: cpu and cuda"), ("cuda:0", "device code|no support|no GPU is usable")],
)
def test_a_device_without_symmetric_memory_is_refused(device: str, text: str) -> None:
    with pytest.raises(fastgpu_comm.InvalidArgumentError, match=text):
        fastgpu_comm.empty(1, device=device)
