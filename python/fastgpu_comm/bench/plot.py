"""Draws a benchmark: the time and the bus bandwidth of each collective against the size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastgpu_comm import names
from fastgpu_comm.bench.results import Results, Row
from fastgpu_comm.bench.sizes import format_size
from fastgpu_comm.bench.table import PLACES


def why_not_drawn(path: Path) -> str | None:
    """Returns why the name of `path` does not suit a picture, or None if it does."""
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if not path.suffix or path.suffix[1:].lower() in known:  # no suffix means PNG
        return None
    hint = names.suggestion(path.suffix[1:], ["png", "svg", *known])  # usual ones first
    suffixes = ", ".join(sorted(known))
    return f"{path.name} is not a picture file.{hint} Its suffix must be one of: {suffixes}"


def draw(results: Results, path: Path) -> bool:
    """Writes a picture with two charts for each collective that has data.

    Returns:
        False if there is nothing to draw, because no call with data succeeded.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    drawn = [row for row in results.rows if row.timing and row.size_bytes]
    collectives = list(dict.fromkeys(row.collective for row in drawn))
    if not collectives:
        return False
    figure, axes = pyplot.subplots(
        len(collectives),
        2,
        figsize=(11, 3.9 * len(collectives)),
        squeeze=False,
        layout="constrained",
    )
    for (time_axis, speed_axis), name in zip(axes, collectives, strict=True):
        _chart(time_axis, speed_axis, [row for row in drawn if row.collective == name])
        time_axis.set_title(f"{name}: median time, shaded up to p99", loc="left", fontsize=10)
        speed_axis.set_title(f"{name}: bus bandwidth", loc="left", fontsize=10)
    figure.suptitle(_origin(results), fontsize=9, color="gray")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True


def _origin(results: Results) -> str:
    """Returns what was measured where, with which software and when, in two lines."""
    machine = results.machine
    where = f"{results.world_size} ranks, {machine.get('cpu', '')}"
    with_what = [machine.get(name, "") for name in ("fastgpu_comm", "torch", "date")]
    return where + "\n" + ", ".join(part for part in with_what if part)


def _chart(time_axis: Any, speed_axis: Any, rows: Sequence[Row]) -> None:
    curves: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        key = (row.backend, PLACES[row.placement], row.dtype, row.redop)
        curves.setdefault(key, []).append(row)
    differing = [len({key[place] for key in curves}) > 1 for place in range(4)]
    colours = {backend: f"C{i}" for i, backend in enumerate(dict.fromkeys(k[0] for k in curves))}
    for key, curve in curves.items():
        label = ", ".join(part for part, differs in zip(key, differing, strict=True) if differs)
        style = {"color": colours[key[0]], "linestyle": "--" if key[1] == PLACES["in"] else "-"}
        if not differing[1]:
            style["linestyle"] = "-"
        sizes = [row.size_bytes for row in curve]
        timings = [row.timing for row in curve if row.timing]
        p50 = [timing.p50_us for timing in timings]
        time_axis.plot(sizes, p50, marker=".", label=label or key[0], **style)
        p99 = [timing.p99_us for timing in timings]
        time_axis.fill_between(sizes, p50, p99, color=style["color"], alpha=0.12, linewidth=0)
        speeds = [row.busbw_gb_s for row in curve]
        speed_axis.plot(sizes, speeds, marker=".", label=label or key[0], **style)
    time_axis.set_ylabel("time of a call (us)")
    # A linear scale would show a slow backend beside a quick one as a line at 0.
    speed_axis.set_ylabel("bus bandwidth (GB/s)")
    for axis in (time_axis, speed_axis):
        axis.set_yscale("log")
        axis.set_xlabel("largest buffer (bytes)")
        ticks = sorted({row.size_bytes for row in rows})
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, [format_size(size) for size in ticks], rotation=45, fontsize=8)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, frameon=False)
