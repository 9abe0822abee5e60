"""fastgpu_comm.empty refuses what no memory can hold."""

from __future__ import annotations

import pytest
import torch

import fastgpu_comm


@pytest.mark.parametrize(
    "size", [(2**61,), (2**61 + 512,), (2**40, 2**40), (2**62, 2**62, 4)], ids=str
)
def test_more_bytes_than_can_be_counted(size: tuple[int, ...]) -> None:
    with pytest.raises(MemoryError):
        fastgpu_comm.empty(*size, dtype=torch.float64)
