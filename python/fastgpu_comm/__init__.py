"""Collective communication for PyTorch: the torch.distributed backend `fastgpu`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastgpu_comm.trainer import Trainer as Trainer

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports what is heavy when it is first asked for."""
    if name == "Trainer":
        from fastgpu_comm.trainer import Trainer

        return Trainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
