"""Tells whether the native extension fits the installed torch, without loading either."""

from __future__ import annotations

import os

# What the driver makes: on Linux, and under Windows' Linux.
_DRIVER_FILES = ("/dev/nvidiactl", "/dev/dxg")


def why_unusable(torch_version: str) -> str | None:
    """Returns why the native extension cannot be used with this version of torch, or None.

    The classes of c10d change their layout from one minor version of torch to the next, so an
    extension that was built for another one has undefined symbols, or crashes.
    """
    try:
        from fastgpu_comm._built_with import TORCH_VERSION
    except ImportError:
        return (
            "fastgpu_comm's native extension is not built; run `make build` in its source folder, "
            "or install the wheel"
        )
    if ".".join(torch_version.split("+")[0].split(".")[:2]) == TORCH_VERSION:
        return None
    return (
        f"fastgpu_comm was built for torch {TORCH_VERSION}, but torch {torch_version} is "
        "installed; build it for this torch with `pip install --no-build-isolation "
        f"--force-reinstall --no-deps .` in its source folder, or install torch {TORCH_VERSION}"
    )


def serves_cuda() -> bool:
    """Returns whether the extension has code for GPUs and this machine a driver for NVIDIA's.

    It asks nothing of CUDA, because a process that has used CUDA can no longer be forked.
    """
    try:
        from fastgpu_comm._built_with import HAS_DEVICE_CODE
    except ImportError:
        return False
    return HAS_DEVICE_CODE and any(map(os.path.exists, _DRIVER_FILES))
