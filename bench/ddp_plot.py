"""Draws bench/results/ddp.md: the time of a training step on each link.

python bench/ddp_plot.py

bench/ddp.py --write calls it.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot

RESULTS = Path(__file__).resolve().parent / "results"


def times(page: str) -> dict[str, dict[str, float]]:
    """Returns the seconds of a step, by link and variant, from the page's table."""
    found: dict[str, dict[str, float]] = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 8 and cells[2].replace(".", "", 1).isdigit():
            found.setdefault(cells[0], {})[cells[1]] = float(cells[2])
    return found


def draw(page: Path, picture: Path) -> None:
    """Writes the picture of the page: a panel for each link, a bar for each variant."""
    text = page.read_text()
    by_link = times(text)
    origin = ", ".join(
        line[2:] for line in text.splitlines() if line.startswith(("- date", "- cpu", "- fastgpu"))
    )
    figure, axes = pyplot.subplots(
        1, len(by_link), figsize=(3.4 * len(by_link), 5), sharey=True, layout="constrained"
    )
    for axis, (link, seconds) in zip(axes, by_link.items(), strict=True):
        names = [name for name in seconds if name != "compute"]
        colors = ["tab:gray" if name.startswith("gloo") else "tab:blue" for name in names]
        bars = axis.barh(names, [seconds[name] for name in names], color=colors)
        axis.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
        axis.axvline(seconds["compute"], color="black", linewidth=0.8, linestyle="--")
        axis.set_title(link, loc="left", fontsize=10)
        axis.set_xlabel("seconds of a step")
        axis.set_xlim(0, 1.18 * max(seconds.values()))
    axes[0].invert_yaxis()
    figure.suptitle(f"GPT of 25M parameters, 2 ranks; dashed: compute alone. {origin}", fontsize=9)
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    draw(RESULTS / "ddp.md", RESULTS / "ddp.png")
