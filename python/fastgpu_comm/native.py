"""Loads the native extension, after checking that it was built for the installed torch.

Import names of the extension from here and never from `_native`: without the check, an extension
built for another torch fails with undefined symbols, or crashes.
"""

from __future__ import annotations

import sys

import torch

from fastgpu_comm._built_for import why_unusable

reason = why_unusable(torch.__version__)
if reason is not None:
    raise ImportError(reason)

try:
    from fastgpu_comm._native import Backend as Backend
    from fastgpu_comm._native import Constants as Constants
    from fastgpu_comm._native import GradientReducer as GradientReducer
    from fastgpu_comm._native import Machine as Machine
    from fastgpu_comm._native import Options as Options
    from fastgpu_comm._native import SlowLink as SlowLink
    from fastgpu_comm._native import WorldPlan as WorldPlan
    from fastgpu_comm._native import algorithms_of as algorithms_of
    from fastgpu_comm._native import buckets_of as buckets_of
    from fastgpu_comm._native import check_variable as check_variable
    from fastgpu_comm._native import codec_costs as codec_costs
    from fastgpu_comm._native import collectives as collectives
    from fastgpu_comm._native import compiler as compiler
    from fastgpu_comm._native import decode as decode
    from fastgpu_comm._native import device_type as device_type
    from fastgpu_comm._native import empty as empty
    from fastgpu_comm._native import encode as encode
    from fastgpu_comm._native import instruction_set as instruction_set
    from fastgpu_comm._native import interfaces as interfaces
    from fastgpu_comm._native import measured_constants as measured_constants
    from fastgpu_comm._native import parameters_of as parameters_of
    from fastgpu_comm._native import set_buckets as set_buckets
    from fastgpu_comm._native import single_copy_is_slow as single_copy_is_slow
    from fastgpu_comm._native import usable_instruction_sets as usable_instruction_sets
    from fastgpu_comm._native import use_devices as use_devices
    from fastgpu_comm._native import variables as variables
except ImportError as error:
    raise ImportError(
        f"fastgpu_comm's native extension does not match its Python code: {error}; run `make "
        "build` in the source folder, or reinstall fastgpu_comm"
    ) from error

path: str = str(sys.modules["fastgpu_comm._native"].__file__)  # for torch's CUDAPluggableAllocator
