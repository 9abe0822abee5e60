"""Mixed precision: autocast, and for fp16 a scaler of the loss."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Precision:
    """Runs forward passes in a precision and takes optimizer steps on gradients of full range.

    One thread. In fp32 and bf16 there is no scaling. In fp16 the loss is scaled up; where a
    gradient overflows, the step is left out and the scale lowered. An overflow travels through
    the all-reduce, so all ranks leave out the same steps.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        """Makes sure that the device can do it.

        Raises:
            ValueError: when the device cannot train in this precision.
        """
        self._dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
        self._device = device
        if self._dtype is not None:
            self._probe(name)
        self.scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None

    def forward(self) -> contextlib.AbstractContextManager[Any]:
        """Returns the context of forward passes."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)

    def backward(self, loss: Tensor) -> None:
        """Adds the loss's gradients, scaled where the precision needs it."""
        torch.autograd.backward(loss if self.scaler is None else self.scaler.scale(loss))

    def step(
        self, optimizer: torch.optim.Optimizer, clip_norm: float | None
    ) -> tuple[bool, float | None]:
        """Clips the gradients and takes the step.

        Returns:
            Whether the step was taken, and the gradients' norm before clipping (None: no clipping).
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
