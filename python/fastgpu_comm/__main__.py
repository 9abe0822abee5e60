"""`python -m fastgpu_comm` is the command `fastgpu-comm`."""

import sys

from fastgpu_comm.cli import main

if __name__ == "__main__":
    sys.exit(main())
