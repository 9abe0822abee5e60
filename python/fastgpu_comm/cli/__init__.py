"""The command `fastgpu-comm`: `main` runs `bench`, `env`, `simulate` or `train`."""

from fastgpu_comm.cli.main import main as main
