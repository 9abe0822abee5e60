"""The torch device "pretended", two devices without hardware for tests: load() registers it.

PRETENDED_MODULE names the built C++ module, if it is not below build/extension/tests.
PRETENDED_SEED and PRETENDED_DELAY_US choose the delays of its streams. All three are read once a
process; they have no FASTGPU_ prefix because fastgpu refuses variables that it does not know.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

BUILT = Path(__file__).parents[2] / "build" / "extension" / "tests" / "torch_device"

_native: ModuleType | None = None


def find_module() -> Path:
    """Returns the path of the built C++ module."""
    if named := os.environ.get("PRETENDED_MODULE"):
        return Path(named)
    built = sorted(BUILT.glob("_pretended*.so"))
    if len(built) != 1:
        raise FileNotFoundError(
            f"expected one _pretended*.so in {BUILT}, found {len(built)}; build it with "
            "make torch-device, or set PRETENDED_MODULE to its path"
        )
    return built[0]


def load() -> ModuleType:
    """Registers the device, once in a process; returns the C++ module.

    The module has:
        runtime(): a capsule "fastgpu.DeviceRuntime" with the process's DeviceRuntime
        kernels(): a capsule "fastgpu.LaneKernels" with the kernels that it launches
        hold(): keeps the current stream from its work until open() of the result is called
        begin_capture(): what the current stream is given from here on is not done, but captured
        end_capture(): ends that; replay() of the result gives all of it to the current stream
        sleep(time_ms): keeps the current stream busy for that time
        overwrite_freed(overwrite): whether memory is filled with 0xFF when it is freed
        await_freed(): waits until memory is freed that no stream uses
        finish(): waits for all streams and all memory
    """
    global _native
    if _native is not None:
        return _native
    path = find_module()
    spec = importlib.util.spec_from_file_location("_pretended", path)
    assert spec is not None
    assert spec.loader is not None
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    atexit.register(native.finish)
    torch.utils.rename_privateuse1_backend("pretended")
    torch._register_device_module("pretended", _device_module(native))
    torch.utils.generate_methods_for_privateuse1_backend()
    _native = native
    return native


Device = torch.device | str | int | None


def _index(device: Device) -> int:
    if isinstance(device, int):
        return device
    index = None if device is None else torch.device(device).index
    return torch.accelerator.current_device_index() if index is None else index


class Stream(torch.Stream):
    """A new stream of a device. In its `with` block it is the current stream."""

    def __new__(cls, device: Device = None, priority: int = 0, **data: Any) -> Stream:
        if data:
            return super().__new__(cls, **data)
        return super().__new__(cls, torch.device("pretended", _index(device)), priority=priority)


class Event(torch.Event):
    """An event; streams of both devices can wait for it."""

    def __new__(cls, enable_timing: bool = False, blocking: bool = False) -> Event:
        return super().__new__(cls, "pretended", enable_timing=enable_timing, blocking=blocking)


def _device_module(native: ModuleType) -> ModuleType:
    """Returns torch.pretended, with the names that torch and its distributed part look for."""
    module = ModuleType("torch.pretended")
    owner = os.getpid()
    names: dict[str, Any] = {
        "Stream": Stream,
        "Event": Event,
        "device_count": lambda: native.device_count,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,  # until torch 2.11 has called it, nothing is synchronised there
        "_is_in_bad_fork": lambda: os.getpid() != owner,
        "current_device": torch.accelerator.current_device_index,
        "set_device": lambda device: torch.accelerator.set_device_index(_index(device)),
        "synchronize": lambda device=None: torch.accelerator.synchronize(_index(device)),
        "current_stream": lambda device=None: torch.accelerator.current_stream(_index(device)),
        "set_stream": torch.accelerator.set_stream,
        "stream": lambda stream: stream,
        "device": lambda device: torch.accelerator.device_index(_index(device)),
        # Random numbers are those of the CPU, which torch seeds.
        "get_rng_state": lambda device="pretended": torch.get_rng_state(),
        "set_rng_state": lambda state, device="pretended": torch.set_rng_state(state),
        "manual_seed_all": lambda seed: None,
        "manual_seed": lambda seed: None,
        "get_amp_supported_dtype": lambda: [torch.float16, torch.bfloat16],
    }
    for name, value in names.items():
        setattr(module, name, value)
    return module
