"""Seeds, saves and restores the random generators of this process.

These are torch's on the CPU and on the device, Python's, and numpy's global one if numpy is loaded.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import torch


def seed_all(seed: int) -> None:
    """Seeds every generator."""
    torch.manual_seed(seed)
    random.seed(seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(seed % 2**32)


def save(device: torch.device) -> dict[str, Any]:
    """Returns the states, which consist of plain Python values and tensors."""
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if (numpy := sys.modules.get("numpy")) is not None:
        name, keys, *rest = numpy.random.get_state()
        state["numpy"] = (name, keys.tolist(), *rest)
    return state


def restore(state: dict[str, Any], device: torch.device) -> None:
    """Sets the generators to the states that `save` returned."""
    torch.set_rng_state(state["torch"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    if (numpy := sys.modules.get("numpy")) is not None and "numpy" in state:
        numpy.random.set_state(tuple(state["numpy"]))
