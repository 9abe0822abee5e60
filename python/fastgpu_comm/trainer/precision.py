"""Mixed precision: autocast, and for fp16 a loss scaler."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

# The dtype that each precision casts to; None casts to none.
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Runs forward passes in a precision, and takes the optimizer's steps.

    One thread. fp32 and bf16 need no scaling. In fp16 the loss is scaled up; if a gradient
    overflows, the step is skipped and the scale lowered. The all-reduce passes an overflow to all
    ranks, so they skip the same steps.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        """Checks the precision with a small forward and backward pass on the device.

        Args:
            name: A name in `DTYPES`.
            device: The device of the model.

        Raises:
            ValueError: The device cannot train in this precision.
        """
        self._dtype = DTYPES[name]
        self._device = device
        if self._dtype is not None:
            self._probe(name)
        self.scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None

    def forward(self) -> contextlib.AbstractContextManager[Any]:
        """Returns the context for a forward pass."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)

    def backward(self, loss: Tensor) -> None:
        """Computes the gradients of the loss, scaled if the precision needs it."""
        torch.autograd.backward(loss if self.scaler is None else self.scaler.scale(loss))

    def step(
        self, optimizer: torch.optim.Optimizer, clip_norm: float | None
    ) -> tuple[bool, float | None]:
        """Clips the gradients and takes a step.

        Args:
            optimizer: The optimizer that holds the gradients.
            clip_norm: The largest global norm of the gradients, or None for no clipping.

        Returns:
            Whether the step was taken; and the norm before clipping, or None without clipping.
        """
        if self.scaler is None:
            norm = _clip(optimizer, clip_norm)
            optimizer.step()
            return True, norm
        self.scaler.unscale_(optimizer)
        norm = _clip(optimizer, clip_norm)
        scale = self.scaler.get_scale()
        self.scaler.step(optimizer)
        self.scaler.update()
        return self.scaler.get_scale() >= scale, norm

    def _probe(self, name: str) -> None:
        try:
            weight = torch.ones(8, 8, device=self._device, requires_grad=True)
            with self.forward():
                product = nn.functional.linear(torch.ones(2, 8, device=self._device), weight)
            torch.autograd.backward(product.float().sum())
        except RuntimeError as error:
            raise ValueError(
                f"TrainerSettings.precision is {name!r}, which torch cannot train in on "
                f"{self._device} ({error}). Use fp32, bf16 or another device."
            ) from error


def _clip(optimizer: torch.optim.Optimizer, clip_norm: float | None) -> float | None:
    if clip_norm is None:
        return None
    parameters: Iterable[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    return float(nn.utils.clip_grad_norm_(parameters, clip_norm))
