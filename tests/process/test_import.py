"""The backend is registered whichever of torch and fastgpu_comm is imported first, and how."""

from __future__ import annotations

import subprocess
import sys

import pytest

FIRST = (
    "import torch",
    "import fastgpu_comm",
    "import fastgpu_comm.backend",
    "import fastgpu_comm.errors",
    "from fastgpu_comm import empty",
    "from fastgpu_comm import Options",
)
THEN = "; import torch.distributed as dist; assert 'fastgpu' in dist.Backend.backend_list"


@pytest.mark.parametrize("first", FIRST)
def test_registered(first: str) -> None:
    command = [sys.executable, "-W", "error::UserWarning", "-c", first + THEN]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
