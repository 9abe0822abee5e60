"""Collective communication for PyTorch: the torch.distributed backend `fastgpu`.

Importing this package registers the backend and loads nothing else. The public names, listed in
`_public.py`, are loaded when the first of them is used.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastgpu_comm._public import *  # noqa: F403

__version__ = "0.1.0"

_BACKEND = "fastgpu"
_PUBLIC_MODULES = ("codecs", "fsdp", "hooks")


def __getattr__(name: str) -> Any:
    """Loads the public names when the first of them is used."""
    if name in _PUBLIC_MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    # `from fastgpu_comm import cli` asks here for `cli` before it imports the submodule.
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is None:
        names = _public_names()
        globals().update(names)
        if name in names:
            return names[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Lists the public names, loaded or not."""
    return sorted({*globals(), *_public_names()})


def _public_names() -> dict[str, Any]:
    names = vars(importlib.import_module(f"{__name__}._public"))
    return {name: value for name, value in names.items() if not name.startswith("_")}


def _create(group: Any, options: Any) -> Any:
    """Creates the backend of one process group. See `fastgpu_comm.backend.create`."""
    from fastgpu_comm.backend import create

    return create(group, options)


def _autoload() -> None:
    """Registers the backend. `import torch` calls this at its end, through our entry point.

    It must not raise, because that would break `import torch` for every program of the environment.
    It must not import modules of the package that import torch: `import fastgpu_comm.errors`, for
    example, imports torch, which then calls this function while `fastgpu_comm.errors` is half
    loaded.
    """
    try:
        import torch
        import torch.distributed as dist

        from fastgpu_comm._built_for import serves_cuda, why_unusable

        if dist.is_available() and _BACKEND not in dist.Backend.backend_list:
            # For CUDA only where it can serve it: torch's ShardedTensor, for example, takes the
            # first device of a backend that is not the CPU.
            devices = ["cpu", "cuda"] if serves_cuda() else ["cpu"]
            dist.Backend.register_backend(_BACKEND, _create, extended_api=True, devices=devices)
            reason = why_unusable(torch.__version__)
            if reason is not None:
                # torch's is_backend_available() asks a function of this name, if there is one.
                setattr(dist, f"is_{_BACKEND}_available", lambda: False)
                raise ImportError(reason)
        if dist.is_available():
            from fastgpu_comm.gloo import follow_environment  # imports torch in functions only

            follow_environment()
    except Exception as error:
        import warnings

        warnings.warn(f"the backend {_BACKEND} is not available: {error}", stacklevel=2)


def _end() -> None:
    """Leaves every group before the interpreter shuts down, and tells the other ranks why."""
    end = getattr(sys.modules.get(f"{__name__}._native"), "end", None)
    if end is not None:
        end(_why_the_program_ends(), _uncaught_error() is not None)


def _why_the_program_ends() -> str:
    error = _uncaught_error()
    if error is None:
        return "its program ended without destroy_process_group(); look at its log"
    return f"its program ended with {_line_of(error)}; look at its log"


def _and_what_it_handled() -> str:
    """Completes the backend's "it destroyed its process group".

    Names the error of a `finally` block, or in a function of `atexit` the one that ended the
    program.
    """
    error = sys.exc_info()[1]
    if error is not None:
        return f" while it handled {_line_of(error)}; look at its log"
    # Python ends the main thread before it calls the functions of atexit.
    error = None if threading.main_thread().is_alive() else _uncaught_error()
    return "" if error is None else f" after {_line_of(error)}; look at its log"


def _uncaught_error() -> BaseException | None:
    error: BaseException | None = getattr(sys, "last_value", None)
    # An interactive session also keeps the exceptions that it survived.
    return None if hasattr(sys, "ps1") else error


def _line_of(error: BaseException) -> str:
    """Returns one line about an error for the other ranks: `for_other_ranks`, or else its text."""
    try:
        text = f"{type(error).__name__}: {getattr(error, 'for_other_ranks', error)}"
    except BaseException:
        text = type(error).__name__
    # File names that are not UTF-8 bring surrogates, which cannot be sent as text.
    return " ".join(text.encode(errors="replace").decode().split())[:500].rstrip(": ")


def _torch_will_autoload() -> bool:
    """Tells whether a later `import torch` will find our entry point and call `_autoload`."""
    import os
    from importlib.metadata import entry_points

    enabled = os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD", "1") == "1"
    return enabled and any(
        entry_point.value == f"{__name__}:_autoload"
        for entry_point in entry_points(group="torch.backends")
    )


# Registered as early as possible, so that the program's own functions, which may still use a group
# or destroy it, run first.
atexit.register(_end)

# Importing torch takes seconds, and `fastgpu-comm --help` does not need it.
if "torch" in sys.modules or not _torch_will_autoload():
    _autoload()
