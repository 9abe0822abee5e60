"""Collective communication for PyTorch: the torch.distributed backend `fastgpu`.

Importing this makes the backend known and loads nothing else: the public names are imported when
they are first asked for.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastgpu_comm.backend import empty as empty
    from fastgpu_comm.backend import monitored_barrier as monitored_barrier
    from fastgpu_comm.backend import stats as stats
    from fastgpu_comm.errors import AbortedError as AbortedError
    from fastgpu_comm.errors import AuthenticationError as AuthenticationError
    from fastgpu_comm.errors import CollectiveMismatchError as CollectiveMismatchError
    from fastgpu_comm.errors import CollectiveTimeoutError as CollectiveTimeoutError
    from fastgpu_comm.errors import CommError as CommError
    from fastgpu_comm.errors import InvalidArgumentError as InvalidArgumentError
    from fastgpu_comm.errors import PeerLostError as PeerLostError
    from fastgpu_comm.errors import RendezvousError as RendezvousError
    from fastgpu_comm.native import Options as Options
    from fastgpu_comm.trainer import Trainer as Trainer

__version__ = "0.1.0"

_BACKEND = "fastgpu"

_HOMES = {
    "AbortedError": "errors",
    "AuthenticationError": "errors",
    "CollectiveMismatchError": "errors",
    "CollectiveTimeoutError": "errors",
    "CommError": "errors",
    "InvalidArgumentError": "errors",
    "Options": "native",
    "PeerLostError": "errors",
    "RendezvousError": "errors",
    "Trainer": "trainer",
    "empty": "backend",
    "monitored_barrier": "backend",
    "stats": "backend",
}


def __getattr__(name: str) -> Any:
    """Imports a public name from its home when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the public names too that were not asked for yet."""
    return sorted({*globals(), *_HOMES})


def _create(group: Any, options: Any) -> Any:
    """Makes the backend of one process group (backend.create); loads it for the first one."""
    from fastgpu_comm.backend import create

    return create(group, options)


def _autoload() -> None:
    """Registers the backend: what `import torch` calls, as it ends, through our entry point.

    It must not raise, for that would break `import torch` for every program of the environment. Nor
    may it import the package's own modules: one of them may be what imports torch just now.
    """
    try:
        import torch.distributed as dist

        if dist.is_available() and _BACKEND not in dist.Backend.backend_list:
            dist.Backend.register_backend(
                _BACKEND, _create, extended_api=True, devices=["cpu", "cuda"]
            )
    except Exception as error:
        import warnings

        warnings.warn(f"the backend fastgpu is not available: {error}", stacklevel=2)


def _torch_will_autoload() -> bool:
    """Tells whether a later `import torch` finds our entry point and calls `_autoload`."""
    import os
    from importlib.metadata import entry_points

    enabled = os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD", "1") == "1"
    return enabled and any(
        entry_point.value == f"{__name__}:_autoload"
        for entry_point in entry_points(group="torch.backends")
    )


# Torch takes seconds to import; `fastgpu-comm --help` does not need it.
if "torch" in sys.modules or not _torch_will_autoload():
    _autoload()
