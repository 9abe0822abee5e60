"""The loss scales of the ranks, compared in every step.

Ranks whose GradScalers differ add up gradients of different units and skip different steps, and
nothing fails (torch issue 136009).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from fastgpu_comm import arguments, reduced

if TYPE_CHECKING:
    from fastgpu_comm.native import GradientReducer

_DISABLED = -1.0  # instead of a scale
_JOINED = 0.0  # the rank has no more inputs: its scale does not count


class LossScales:
    """Exchanges the scales beside the forward pass, and compares them when backward begins.

    No gradient has been reduced then. A forward whose output holds no tensors that autograd
    reaches is compared at the next forward. Not thread-safe: the thread of the model calls it.
    """

    def __init__(
        self,
        scaler: torch.amp.GradScaler,
        group: Any,
        device: torch.device,
        gradients: GradientReducer | None,
    ) -> None:
        """Compares the scalers as they are. A collective.

        Args:
            scaler: The scaler of this rank.
            group: The process group of the model.
            device: Where the scales are exchanged.
            gradients: Has the residuals, which follow the scale, and the weights, which do not
                count in a step whose scales differ; None: there are neither.

        Raises:
            RuntimeError: On all ranks, if the scales differ.
            TypeError: `scaler` is no GradScaler.
        """
        if not all(hasattr(scaler, name) for name in ("get_scale", "is_enabled")):
            wanted = "a torch.amp.GradScaler; without one, GradScaler(enabled=False)"
            raise arguments.wrong_type("scaler", scaler, wanted)
        self._scaler = scaler
        self._device = device
        self._gradients = gradients
        self._group = group  # of the last exchange
        self._pending: tuple[Any, torch.Tensor] | None = None
        self._start(scaler.get_scale() if scaler.is_enabled() else _DISABLED, group)
        self.check()

    def follow(self, scale: float) -> float:
        """Undoes a skipped step and rescales the residuals if the scale is no longer `scale`.

        Returns:
            The scale.
        """
        return self._followed(scale, self._scaler.get_scale())

    def start(self, group: Any) -> None:
        """Starts the exchange of a step, after the comparison of the last one if it is pending."""
        self._check_last(group)
        if self._scaler.is_enabled():
            self._start(self._scaler.get_scale(), group)

    def join(self, group: Any, scale: float) -> float:
        """Takes part in the exchange of the other ranks, after this rank has joined.

        Returns:
            Their scale, which the residuals follow.
        """
        self._check_last(group)
        if not self._scaler.is_enabled():
            return scale
        self._start(_JOINED, group)
        return self._followed(scale, self.check() or scale)

    def _check_last(self, group: Any) -> None:
        if group is self._group:
            self.check()
        else:
            self._pending = None  # of a group that is gone, with ranks that are gone

    def _start(self, scale: float, group: Any) -> None:
        self._group = group
        scales = torch.zeros(group.size(), dtype=torch.float64, device=self._device)
        scales[group.rank()] = scale
        self._pending = dist.all_reduce(scales, group=group, async_op=True), scales

    @torch._disable_dynamo(recursive=False)
    def check_before_backward(self, output: Any) -> None:
        """Makes the backward pass of a model's output begin with check()."""
        if self._pending is not None:
            reduced.before_backward(output, self._check_hook)

    def _check_hook(self, gradient: torch.Tensor) -> None:
        self.check()

    def check(self) -> float | None:
        """Compares the scales of the exchange that is pending, if there is one.

        Returns:
            The scale of the ranks that have inputs, or None.

        Raises:
            RuntimeError: On all ranks, if the scales differ.
        """
        if self._pending is None:
            return None
        (work, scales), self._pending = self._pending, None
        work.wait()
        ranks_of: dict[float, list[int]] = {}
        for rank, scale in enumerate(scales.tolist()):
            if scale != _JOINED:
                ranks_of.setdefault(scale, []).append(rank)
        if len(ranks_of) < 2:
            return next(iter(ranks_of), None)
        if self._gradients is not None:
            self._gradients.abandon_step()
        described = [
            f"{'no scale (the scaler is disabled)' if scale == _DISABLED else scale} on "
            f"{listed(ranks)}"
            for scale, ranks in ranks_of.items()
        ]
        raise RuntimeError(
            f"the loss scales of the ranks differ: {'; '.join(described)}. No gradient of this "
            "step has been reduced. Give all ranks a GradScaler with the same arguments or the "
            "same state, and call its update() after every step on every rank."
        )

    def _followed(self, before: float, now: float) -> float:
        if now != before and self._gradients is not None:
            if now < before:
                self._gradients.undo()
            self._gradients.scale_residuals(now / before)
        return now


def listed(ranks: list[int]) -> str:
    """Returns "rank 3" or "ranks 0, 1, 2"."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
