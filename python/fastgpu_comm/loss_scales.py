"""The loss scales of the ranks, compared in every step.

Ranks whose GradScalers differ add up gradients of different units and skip different steps, and
nothing fails (torch issue 136009).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from fastgpu_comm import arguments, reduced

if TYPE_CHECKING:
    from fastgpu_comm.native import GradientReducer

_DISABLED = -1.0  # instead of a scale
_JOINED = 0.0  # the rank has no more inputs: its scale does not count


class LossScales:
    """Keeps the residuals in the units of the loss scale, and compares the scales of the ranks.

    The scales are exchanged beside the forward pass, and compared when backward begins: no gradient
    has been reduced then. A forward whose output holds no tensors that autograd reaches is compared
    at the next forward. Without a scaler to follow nothing is exchanged. Not thread-safe: the
    thread of the model calls it.

    Attributes:
        scale: The loss scale that the residuals are in; 1 until there is a scaler.
    """

    def __init__(self, gradients: GradientReducer | None, scale: float = 1.0) -> None:
        """Follows no scaler yet.

        Args:
            gradients: Has the residuals, which follow the scale, and the weights announced for
                a step, which are dropped if its scales differ; None: there are neither.
            scale: The loss scale that the residuals are in.
        """
        self.scale = scale
        self._gradients = gradients
        self._scaler: torch.amp.GradScaler | None = None
        self._known_at = 0  # the passes after which the residuals were known to be in `scale`
        self._device = torch.device("cpu")
        self._group: Any = None  # of the last exchange
        self._pending: tuple[Any, torch.Tensor] | None = None

    def follow(self, scaler: torch.amp.GradScaler, group: Any, device: torch.device) -> None:
        """Follows a scaler from now on, after a comparison. A collective.

        Backward passes that no scaler was followed in, and that came after a state was loaded, are
        taken to have used this one: the residuals are in its scale already.

        Args:
            scaler: The scaler of this rank.
            group: The process group of the model.
            device: Where the scales are exchanged.

        Raises:
            RuntimeError: On all ranks, if the scales differ.
            TypeError: `scaler` is no GradScaler.
        """
        if not all(hasattr(scaler, name) for name in ("get_scale", "is_enabled")):
            wanted = "a torch.amp.GradScaler; without one, GradScaler(enabled=False)"
            raise arguments.wrong_type("scaler", scaler, wanted)
        self._device = device
        self._start(scaler.get_scale() if scaler.is_enabled() else _DISABLED, group)
        self.check()
        self.update()
        followed, self._scaler = self._scaler is not None, scaler
        before, self.scale = self.scale, scaler.get_scale()
        if self._gradients is not None:
            if followed or self._gradients.passes == self._known_at:
                self._gradients.scale_residuals(self.scale / before)
            self._gradients.keep_copies(scaler.is_enabled())

    def update(self) -> None:
        """Undoes a skipped step and rescales the residuals if the scaler has changed its scale."""
        if self._scaler is not None:
            self._set(self._scaler.get_scale())

    def load(self, residuals: Mapping[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
        """Returns the residuals of a state, converted to the present scale.

        They must replace all residuals before the next backward pass.

        Args:
            residuals: The residuals by name.
            scale: The loss scale that they were saved in.
        """
        if self._gradients is not None:
            self._known_at = self._gradients.passes
        return {name: each * (self.scale / scale) for name, each in residuals.items()}

    def start(self, group: Any) -> None:
        """Starts the exchange of a step, after the comparison of the last one if it is pending."""
        self._check_last(group)
        if self._scaler is not None and self._scaler.is_enabled():
            self._start(self._scaler.get_scale(), group)

    def join(self, group: Any) -> None:
        """Takes part in the exchange of the other ranks, after this rank has joined.

        The residuals follow their scale.
        """
        self._check_last(group)
        if self._scaler is not None and self._scaler.is_enabled():
            self._start(_JOINED, group)
            self._set(self.check() or self.scale)

    @property
    def are_pending(self) -> bool:
        """Whether an exchange has not been compared yet."""
        return self._pending is not None

    def _check_last(self, group: Any) -> None:
        if group is self._group:
            self.check()
        else:
            self._pending = None  # the model has left that group, whose ranks may be gone

    def _start(self, scale: float, group: Any) -> None:
        self._group = group
        scales = torch.zeros(group.size(), dtype=torch.float64, device=self._device)
        scales[group.rank()] = scale
        self._pending = dist.all_reduce(scales, group=group, async_op=True), scales

    @torch._disable_dynamo(recursive=False)
    def check_before_backward(self, output: Any) -> None:
        """Makes the backward pass of a model's output begin with check()."""
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

    def _set(self, now: float) -> None:
        before, self.scale = self.scale, now
        if now != before and self._gradients is not None:
            if now < before:
                self._gradients.undo()
            self._gradients.scale_residuals(now / before)


def listed(ranks: list[int]) -> str:
    """Returns "rank 3" or "ranks 0, 1, 2"."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
