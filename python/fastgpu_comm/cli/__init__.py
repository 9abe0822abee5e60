"""The command `fastgpu-comm`: every module of this package but `main` is one of its commands."""

from fastgpu_comm.cli.main import main

__all__ = ["main"]
