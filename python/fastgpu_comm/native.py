"""Loads the native extension, after checking that it was built for the installed torch.

Import names of the extension from here and never from `_native`: without the check, an extension
built for another torch fails with undefined symbols, or crashes.
"""

from __future__ import annotations

import torch

try:
    from fastgpu_comm._built_with import TORCH_VERSION
except ImportError as error:
    raise ImportError(
        "fastgpu_comm's native extension is not built; run `make build` in its source folder, or "
        "install the wheel"
    ) from error

installed = ".".join(torch.__version__.split("+")[0].split(".")[:2])
if installed != TORCH_VERSION:
    raise ImportError(
        f"fastgpu_comm was built for torch {TORCH_VERSION}, but torch {torch.__version__} is "
        "installed; build fastgpu_comm for this torch with `pip install --no-build-isolation`, or "
        f"install torch {TORCH_VERSION}"
    )

try:
    from fastgpu_comm._native import Backend as Backend
    from fastgpu_comm._native import Constants as Constants
    from fastgpu_comm._native import Machine as Machine
    from fastgpu_comm._native import Options as Options
    from fastgpu_comm._native import SlowLink as SlowLink
    from fastgpu_comm._native import WorldPlan as WorldPlan
    from fastgpu_comm._native import algorithms_of as algorithms_of
    from fastgpu_comm._native import check_variable as check_variable
    from fastgpu_comm._native import collectives as collectives
    from fastgpu_comm._native import compiler as compiler
    from fastgpu_comm._native import empty as empty
    from fastgpu_comm._native import instruction_set as instruction_set
    from fastgpu_comm._native import interfaces as interfaces
    from fastgpu_comm._native import measured_constants as measured_constants
    from fastgpu_comm._native import single_copy_is_slow as single_copy_is_slow
    from fastgpu_comm._native import usable_instruction_sets as usable_instruction_sets
    from fastgpu_comm._native import variables as variables
except ImportError as error:
    raise ImportError(
        f"fastgpu_comm's native extension does not match its Python code: {error}; run `make "
        "build` in the source folder, or reinstall fastgpu_comm"
    ) from error
