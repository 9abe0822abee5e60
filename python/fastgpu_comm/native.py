"""Loads the native extension, after checking that it fits the installed torch.

Import names of the extension from here, never from `_native` itself: with another torch that would
end in undefined symbols, or worse.
"""

from __future__ import annotations

import torch

try:
    from fastgpu_comm._built_with import TORCH_VERSION
except ImportError as error:
    raise ImportError(
        "fastgpu_comm's native extension is not built; run `make build` in its source, or install "
        "the wheel"
    ) from error

installed = ".".join(torch.__version__.split("+")[0].split(".")[:2])
if installed != TORCH_VERSION:
    raise ImportError(
        f"fastgpu_comm was built for torch {TORCH_VERSION}, and torch {torch.__version__} is "
        f"installed; reinstall fastgpu_comm with `pip install --no-build-isolation` so that it is "
        f"built for this one, or install torch {TORCH_VERSION}"
    )

try:
    from fastgpu_comm._native import (
        Backend,
        Constants,
        Machine,
        Options,
        SlowLink,
        WorldPlan,
        algorithms_of,
        collectives,
        empty,
        measured_constants,
    )
except ImportError as error:
    raise ImportError(
        f"fastgpu_comm's native extension does not fit its Python code: {error}; build it "
        "anew: run `make build` in its source, or reinstall fastgpu_comm"
    ) from error

__all__ = [
    "Backend",
    "Constants",
    "Machine",
    "Options",
    "SlowLink",
    "WorldPlan",
    "algorithms_of",
    "collectives",
    "empty",
    "measured_constants",
]
