"""Lets torch's tests for GPUs run on the CPU, by taking every CUDA device for the CPU.

Most of torch's tests of DistributedDataParallel ask for GPUs, though few test anything about them.
`open_gates` must run before the module of the tests is imported. The rest stays in effect in this
process and those forked from it. Tests that need streams or events of CUDA still fail.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import parallel
from torch.overrides import TorchFunctionMode
from torch.testing._internal import common_distributed

import fastgpu_comm

GATES = (
    "`skip_if_lt_x_gpu` and `skip_if_no_gpu` skip nothing, and each rank has the GPU of its number",
    "CUDA devices, given as a name, a number or a `torch.device`, are the CPU; `cuda()` returns "
    "the tensor or module",
    "`torch.cuda.set_device`, `synchronize` and `manual_seed` do nothing",
    "DistributedDataParallel gets `device_ids=None`",
)


class CudaIsCpu(TorchFunctionMode):
    """Replaces the CUDA devices in the arguments of torch's functions by the CPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Calls the function with other devices."""
        if func is torch.Tensor.cuda:
            return args[0]
        kwargs = {
            name: on_cpu(value, number=name == "device") for name, value in (kwargs or {}).items()
        }
        moves = func is torch.Tensor.to
        return func(*(on_cpu(arg, number=moves) for arg in args), **kwargs)


def on_cpu(value: Any, number: bool = False) -> Any:
    """Returns the CPU for a CUDA device, else the value. With `number` an int is a device."""
    if number and isinstance(value, int) and not isinstance(value, bool):
        return torch.device("cpu")
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    if isinstance(value, str) and value.partition(":")[0] == "cuda":
        return "cpu"
    return value


def open_gates() -> None:
    """Opens all gates but that of DistributedDataParallel's arguments."""
    common: Any = common_distributed
    common.skip_if_lt_x_gpu = lambda *_, **__: lambda test: test
    common.skip_if_no_gpu = lambda test: test
    common.init_multigpu_helper = lambda world, _: {rank: [rank] for rank in range(world)}
    for name in ("set_device", "synchronize", "manual_seed"):
        setattr(torch.cuda, name, lambda *_, **__: None)
    torch.cuda.current_device = lambda: 0
    to: Callable[..., Any] = torch.nn.Module.to

    def module_to(module: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs = {name: on_cpu(value, number=name == "device") for name, value in kwargs.items()}
        return to(module, *(on_cpu(arg, number=True) for arg in args), **kwargs)

    torch.nn.Module.to = module_to  # type: ignore[assignment, method-assign]
    contextlib.ExitStack().enter_context(CudaIsCpu())


class WithoutDevices:
    """Before a DistributedDataParallel among the bases, ignores the devices that it is given."""

    def __init__(
        self,
        module: torch.nn.Module,
        device_ids: Any = None,
        output_device: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Wraps a module."""
        super().__init__(module, None, None, *args, **kwargs)  # type: ignore[call-arg]


class TorchDdp(WithoutDevices, parallel.DistributedDataParallel):
    """torch's class."""


class OurDdp(WithoutDevices, fastgpu_comm.DistributedDataParallel):
    """Our class."""


class HookedDdp(OurDdp):
    """Our class with its communication hook, which reduces without a codec."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Wraps a module."""
        super().__init__(*args, codec=uncompressed, **kwargs)


def uncompressed(*_: object) -> None:
    """Chooses no codec for any parameter."""


CLASSES = {"torch's class": TorchDdp, "ours": OurDdp, "ours, hooked": HookedDdp}
# Left out, and why.
TOO_SLOW = {"test_ddp_uneven_inputs": "on a CPU its images of 1000 x 1000 pixels take many minutes"}
# Errors of tests that the hook is in the way of. They do not fail the run.
REFUSED = (
    "can only be called once",
    "None mismatch: fastgpu_comm is not None",  # the name of the hook in the logging data
    "mixed_precision registers a communication hook",
)
