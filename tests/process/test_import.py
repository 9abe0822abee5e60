"""The backend is registered whichever of torch and fastgpu_comm is imported first, and how."""

from __future__ import annotations

import subprocess
import sys

import pytest

FIRST = (
    "import torch",
    "import torch; import fastgpu_comm",
    "import fastgpu_comm",
    "import fastgpu_comm.backend",
    "import fastgpu_comm.errors",
    "from fastgpu_comm import empty",
    "from fastgpu_comm import Options",
)
CHEAP = ("import torch", "import fastgpu_comm", "import torch; import fastgpu_comm")
THEN = (
    "; import torch.distributed as dist; assert 'fastgpu' in dist.Backend.backend_list; "
    "assert dist.Backend.backend_capability['fastgpu'] == ['cpu']"
)
NOT_YET = "; import sys; assert 'fastgpu_comm._native' not in sys.modules"


@pytest.mark.parametrize("first", FIRST)
def test_registered(first: str) -> None:
    program = first + (NOT_YET if first in CHEAP else "") + THEN
    command = [sys.executable, "-W", "error::UserWarning", "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr


def test_the_exit_of_a_program_without_a_group_starts_nothing() -> None:
    """It would need descriptors, of which there are none."""
    program = (
        "import fastgpu_comm.native, resource; resource.setrlimit(resource.RLIMIT_NOFILE, (6, 6))"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0
    assert "Traceback" not in result.stderr
    assert "Exception" not in result.stderr


def test_an_extension_of_other_python_code_says_what_to_do() -> None:
    older = "import sys, types; name = 'fastgpu_comm._native'; sys.modules[name] = "
    command = [sys.executable, "-c", older + "types.ModuleType(name); import fastgpu_comm.native"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert result.returncode == 1
    assert "cannot import name 'Backend'" in result.stderr
    assert "run `make build`" in result.stderr.splitlines()[-1]
