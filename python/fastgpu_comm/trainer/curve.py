"""Draws the loss curve of a run. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastgpu_comm.bench import machine
from fastgpu_comm.trainer.metrics import Record


def draw_loss_curve(records: Sequence[Record], path: Path, title: str) -> None:
    """Writes a PNG with the training and evaluation losses against the steps.

    Args:
        records: The records that `metrics.read` returns. If a step occurs twice, the later record
            is drawn.
        path: The PNG file; its folder is created.
        title: The title above the curve.

    Raises:
        ModuleNotFoundError: There is no matplotlib; the message says how to install it.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Drawing the loss curve needs matplotlib: pip install matplotlib."
        ) from error

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for event, style in (("train", "-"), ("evaluation", "o-")):
        losses = {r["step"]: float(r["loss"]) for r in records if r["event"] == event}
        if losses:
            axes.plot(*zip(*sorted(losses.items()), strict=True), style, label=event)
    axes.set(xlabel="step", ylabel="loss (nats)")
    axes.set_title(title, loc="left")
    axes.set_title(machine.origin(), loc="right", fontsize=8, color="gray")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
