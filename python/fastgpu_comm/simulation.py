"""Simulates collectives on machines of any size: time against ranks, by algorithm.

It simulates the schedules that would run, on a model of the machine (docs/cost.md). It sends
nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgpu_comm.bench.sizes import format_size
from fastgpu_comm.collectives import COLLECTIVES

if TYPE_CHECKING:
    from rich.table import Table

    from fastgpu_comm.native import Constants, WorldPlan

ELEMENT_SIZE = 4  # float32

# The largest world for which to simulate an exchange between all pairs of ranks. The memory grows
# with the square of the ranks, so for larger worlds only the prediction is shown.
MAX_PAIR_RANKS = 1024


@dataclass(frozen=True)
class Scenario:
    """The calls to simulate, and the machine.

    Attributes:
        collective: The name, such as "all_reduce".
        size_bytes: The size of the largest buffer, as in `collectives`.
        worlds: The numbers of ranks.
        ranks_per_host: Ranks 0 to ranks_per_host - 1 share the first host, and so on.
        algorithms: The names of the algorithms.
        lanes: The number of lanes of every algorithm.
        chunk_bytes: The size of a pipelined step; None lets the model choose.
        constants: The costs of the machine.
        slow_ranks: Factors of processor time, by rank.
        slow_links: (source, target, factor of latency and of time per byte).
    """

    collective: str
    size_bytes: int
    worlds: Sequence[int]
    ranks_per_host: int
    algorithms: Sequence[str]
    lanes: int
    chunk_bytes: int | None
    constants: Constants
    slow_ranks: dict[int, float] = field(default_factory=dict)
    slow_links: Sequence[tuple[int, int, float]] = ()

    def plan(self, world: int, algorithm: str) -> WorldPlan:
        """Returns the plan of one algorithm in one world."""
        from fastgpu_comm.native import WorldPlan

        plan = WorldPlan(
            collective=self.collective,
            algorithm=algorithm,
            world=world,
            count=COLLECTIVES[self.collective].count(self.size_bytes, ELEMENT_SIZE, world),
            element_size=ELEMENT_SIZE,
            lanes=self.lanes,
            host_of=[rank // self.ranks_per_host for rank in range(world)],
        )
        plan.chunk_bytes = self.chunk_bytes or plan.tree_chunk_bytes(self.constants)
        return plan


@dataclass(frozen=True)
class Point:
    """The times of one algorithm in one world.

    Attributes:
        world: The number of ranks.
        algorithm: The name.
        predicted_us: The price by which `auto` chooses; it ignores slow ranks and links.
        simulated_us: Until the last rank finishes; None if the world is too large to simulate.
        chosen: `auto` would choose this algorithm.
    """

    world: int
    algorithm: str
    predicted_us: float
    simulated_us: float | None
    chosen: bool

    @property
    def time_us(self) -> float:
        """The simulated time, or the predicted time if there is none."""
        return self.predicted_us if self.simulated_us is None else self.simulated_us


def points(scenario: Scenario) -> Iterator[Point]:
    """Yields the points world by world, in the order of the scenario's algorithms."""
    for world in scenario.worlds:
        for algorithm in scenario.algorithms:
            yield _point(scenario, world, algorithm)


def _point(scenario: Scenario, world: int, algorithm: str) -> Point:
    from fastgpu_comm.native import Machine, SlowLink

    plan = scenario.plan(world, algorithm)
    collective = COLLECTIVES[scenario.collective]
    all_pairs = algorithm == "direct" and collective.has_data and not collective.rooted
    simulated = None
    if not all_pairs or world <= MAX_PAIR_RANKS:
        machine = Machine(
            constants=scenario.constants,
            rank_slowness=[scenario.slow_ranks.get(rank, 1.0) for rank in range(world)],
            slow_links=[SlowLink(*link) for link in scenario.slow_links],
        )
        simulated = plan.simulate(machine).end_us
    return Point(
        world=world,
        algorithm=algorithm,
        predicted_us=plan.predict_us(scenario.constants),
        simulated_us=simulated,
        chosen=plan.choose(scenario.constants)[0] == algorithm,
    )


def format_time(time_us: float) -> str:
    """Returns a time with three digits and a unit: 12.3 us, 4.56 ms, 1.20 s."""
    for unit, length in (("s", 1e6), ("ms", 1e3)):
        if time_us >= length:
            return f"{_digits(time_us / length)} {unit}"
    return f"{_digits(time_us)} us"


def _digits(value: float) -> str:
    return f"{value:#.3g}".rstrip(".")


def title(scenario: Scenario) -> str:
    """Returns one line that describes the scenario."""
    has_data = COLLECTIVES[scenario.collective].has_data
    size = f" of {format_size(scenario.size_bytes)}" if has_data else ""
    lanes = f", {scenario.lanes} lanes" if scenario.lanes > 1 else ""
    return f"{scenario.collective}{size}, {scenario.ranks_per_host} ranks a host{lanes}"


def table(scenario: Scenario, found: Sequence[Point]) -> Table:
    """Returns the times: a row per world, a column per algorithm, the least time in bold."""
    from rich.table import Table

    table = Table(title=title(scenario), title_justify="left", header_style="")
    table.add_column("ranks", justify="right")
    for algorithm in scenario.algorithms:
        table.add_column(algorithm, justify="right")
    table.add_column("auto chooses")
    for world in scenario.worlds:
        row = [point for point in found if point.world == world]
        least = min(point.time_us for point in row)
        cells = []
        for point in row:
            text = ("" if point.simulated_us is not None else "~") + format_time(point.time_us)
            cells.append(f"[bold]{text}[/bold]" if point.time_us == least else text)
        chosen = [point.algorithm for point in row if point.chosen]
        table.add_row(str(world), *cells, chosen[0] if chosen else "another")
    if any(point.simulated_us is None for point in found):
        table.caption = "~ predicted: too many pairs of ranks to simulate"
    return table


def write_json(scenario: Scenario, found: Sequence[Point], path: Path) -> None:
    """Writes the scenario and every number of every point."""
    content: dict[str, Any] = {
        "collective": scenario.collective,
        "size_bytes": scenario.size_bytes,
        "ranks_per_host": scenario.ranks_per_host,
        "lanes": scenario.lanes,
        "constants": scenario.constants.text(),
        "slow_ranks": scenario.slow_ranks,
        "slow_links": list(scenario.slow_links),
        "points": [vars(point) for point in found],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def draw(scenario: Scenario, found: Sequence[Point], path: Path) -> None:
    """Draws time against ranks: simulated times as lines, predicted times as dots."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for algorithm in scenario.algorithms:
        curve = [point for point in found if point.algorithm == algorithm]
        simulated = [point for point in curve if point.simulated_us is not None]
        (line,) = axis.plot(
            [point.world for point in simulated],
            [point.time_us for point in simulated],
            marker=".",
            label=algorithm,
        )
        axis.plot(
            [point.world for point in curve],
            [point.predicted_us for point in curve],
            linestyle=":",
            color=line.get_color(),
        )
    axis.plot([], [], linestyle=":", color="gray", label="predicted")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(list(scenario.worlds), [str(world) for world in scenario.worlds])
    axis.minorticks_off()
    axis.set_xlabel("ranks")
    axis.set_ylabel("us")
    axis.set_title(title(scenario), loc="left", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
