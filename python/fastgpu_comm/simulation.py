"""Simulates collectives on machines of any size: time against ranks, by algorithm.

It simulates the schedules that would run, on a model of the machine (docs/cost.md). It sends
nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgpu_comm.bench import machine
from fastgpu_comm.bench.sizes import format_size
from fastgpu_comm.collectives import COLLECTIVES

if TYPE_CHECKING:
    from rich.table import Table

    from fastgpu_comm.native import Constants, Machine, WorldPlan

ELEMENT_SIZE = 4  # float32
AUTO = "auto"
MAX_STEPS = 1 << 22  # of all ranks together: a ring of 1024 ranks, simulated in about a second
MARGIN = 0.95  # kWorthIt in csrc/plan/cost/choose.cpp

# The links between GPUs of one host whose kernels read memory of peers: GB/s in one direction
# by its data sheet.
GPU_LINKS = {"nvlink4": 450.0, "nvlink3": 300.0, "pcie5": 63.0, "pcie4": 31.5}
GPU_TRIP_US = 2.0  # for a word to arrive in a peer's memory and be seen: assumed, not measured
GPU_COPY_US_PER_BYTE = 1e-6  # within a GPU, as an A100's memory of 2 TB/s allows


@dataclass(frozen=True)
class Scenario:
    """The calls to simulate, and the machine.

    Attributes:
        collective: The name, such as "all_reduce".
        size_bytes: The size of the largest buffer, as in `collectives`.
        worlds: The numbers of ranks.
        ranks_per_host: Ranks 0 to ranks_per_host - 1 share the first host, and so on.
        algorithms: The names of the algorithms.
        lanes: The number of lanes; None means one, and for `auto` as many as it chooses.
        chunk_bytes: The size of a pipelined step; None lets the model choose.
        constants: The costs of the machine.
        slow_ranks: Factors of processor time, by rank.
        slow_links: (source, target, factor of latency and of time per byte).
        max_steps: The most steps of all ranks to simulate; the price stands in for more.
    """

    collective: str
    size_bytes: int
    worlds: Sequence[int]
    ranks_per_host: int
    algorithms: Sequence[str]
    lanes: int | None
    chunk_bytes: int | None
    constants: Constants
    slow_ranks: dict[int, float] = field(default_factory=dict)
    slow_links: Sequence[tuple[int, int, float]] = ()
    max_steps: int = MAX_STEPS

    @property
    def columns(self) -> Sequence[str]:
        """The algorithms to compare: those of the scenario, then `auto`."""
        return (*self.algorithms, AUTO)

    def plan(self, world: int, algorithm: str) -> WorldPlan:
        """Returns the plan of one algorithm, or of `auto`'s choice, in one world."""
        from fastgpu_comm.native import WorldPlan

        plan = WorldPlan(
            collective=self.collective,
            algorithm=self.algorithms[0] if algorithm == AUTO else algorithm,
            world=world,
            count=COLLECTIVES[self.collective].count(self.size_bytes, ELEMENT_SIZE, world),
            element_size=ELEMENT_SIZE,
            lanes=self.lanes or 1,
            host_of=[rank // self.ranks_per_host for rank in range(world)],
        )
        if algorithm == AUTO:
            choice = plan.choose(self.constants, lanes=self.lanes or 0)
            plan.algorithm, plan.lanes, plan.chunk_bytes, plan.shots = choice
        else:
            plan.chunk_bytes = plan.tree_chunk_bytes(self.constants)
        plan.chunk_bytes = self.chunk_bytes or plan.chunk_bytes
        return plan

    def machine(self, world: int) -> Machine:
        """Returns the machine for a number of ranks."""
        from fastgpu_comm.native import Machine, SlowLink

        return Machine(
            constants=self.constants,
            rank_slowness=[self.slow_ranks.get(rank, 1.0) for rank in range(world)],
            slow_links=[SlowLink(*link) for link in self.slow_links],
        )


def use_gpus(constants: Constants, link: str) -> None:
    """Sets the costs inside a host to those of GPUs whose kernels run the schedules.

    Args:
        constants: What to change; the costs between hosts stay.
        link: A name of GPU_LINKS.
    """
    constants.is_gpu = True
    inside = constants.same_host
    inside.alpha_us = GPU_TRIP_US
    inside.beta_us_per_byte = 1e-3 / GPU_LINKS[link]
    inside.overhead_us = 0.0
    # A kernel pulls at the link's rate, and the sender has no work; the model gives it half.
    inside.cpu_us_per_byte = inside.beta_us_per_byte / 2
    constants.copy_us_per_byte = GPU_COPY_US_PER_BYTE
    constants.reduce_us_per_byte = 0.0  # done while bytes arrive
    constants.cores_per_host = 0


@dataclass(frozen=True)
class Point:
    """The times of one algorithm in one world.

    Attributes:
        world: The number of ranks.
        algorithm: The name; "auto" for the choice that the library makes.
        predicted_us: The price by which `auto` chooses; it ignores slow ranks and links.
        simulated_us: Until the last rank finishes; None if there are too many steps to simulate.
        way: For `auto` the choice, such as "direct in 1 step" or "tree, 2 lanes"; else the name.
    """

    world: int
    algorithm: str
    predicted_us: float
    simulated_us: float | None
    way: str

    @property
    def time_us(self) -> float:
        """The simulated time, or the predicted time if there is none."""
        return self.predicted_us if self.simulated_us is None else self.simulated_us


def point(scenario: Scenario, world: int, algorithm: str) -> Point:
    """Returns the times of one algorithm, or of `auto`'s choice, in one world. Any thread."""
    plan = scenario.plan(world, algorithm)
    simulated = None
    if plan.estimated_steps() <= scenario.max_steps:
        simulated = plan.simulate(scenario.machine(world)).end_us
    return Point(
        world=world,
        algorithm=algorithm,
        predicted_us=plan.predict_us(scenario.constants),
        simulated_us=simulated,
        way=_way(plan) if algorithm == AUTO else algorithm,
    )


def _way(plan: WorldPlan) -> str:
    """Returns the algorithm of a plan and what else `auto` chooses."""
    name = plan.algorithm
    if plan.shots and plan.collective == "broadcast":
        name += " staged"
    elif plan.shots:
        name += f" {('one', 'two')[plan.shots - 1]}-shot"
    return name if plan.lanes == 1 else f"{name}, {plan.lanes} lanes"


def why_not_quickest(scenario: Scenario, row: Sequence[Point]) -> str:
    """Returns why `auto` is slower than another algorithm in one world; "" if it is not.

    Args:
        scenario: The scenario.
        row: The points of the world, the one of `auto` last.
    """
    *others, auto = row
    simulated = [point for point in others if point.simulated_us is not None]
    best = min(simulated, key=lambda point: point.time_us, default=auto)
    if auto.simulated_us is None or auto.time_us <= best.time_us * 1.005:
        return ""
    over = auto.time_us / best.time_us - 1
    return (
        f"{auto.world} ranks: {auto.way} takes {over:.0%} longer than {best.algorithm}: "
        f"{_reason(scenario, auto, best)}"
    )


def _reason(scenario: Scenario, auto: Point, best: Point) -> str:
    prices = f"{format_time(auto.predicted_us)} against {format_time(best.predicted_us)}"
    if scenario.slow_ranks or scenario.slow_links:
        return "auto does not know of slow ranks and links"
    if auto.predicted_us <= best.predicted_us:
        return f"by price, which is what auto goes by, it is not slower ({prices})"
    if best.predicted_us >= MARGIN * auto.predicted_us:
        return f"the prices ({prices}) differ by less than 5%, as much as they may be wrong"
    return f"its price is lower ({prices}), but auto has a rule against it (docs/cost.md)"


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
    lanes = f", {scenario.lanes} lanes" if scenario.lanes else ""
    return f"{scenario.collective}{size}, {scenario.ranks_per_host} ranks a host{lanes}"


def table(scenario: Scenario, found: Sequence[Point]) -> Table:
    """Returns the times: a row per world, a column per algorithm, the least time in bold.

    A star marks the worlds where `auto` is not the quickest; `why_not_quickest` says why.
    """
    from rich.table import Table

    table = Table(title=title(scenario), title_justify="left", header_style="")
    table.add_column("ranks", justify="right")
    for algorithm in scenario.columns:
        table.add_column(algorithm, justify="right")
    table.add_column("auto takes")
    for row in rows(scenario, found):
        least = min(point.time_us for point in row)
        cells = []
        for point in row:
            text = ("" if point.simulated_us is not None else "~") + format_time(point.time_us)
            cells.append(f"[bold]{text}[/bold]" if point.time_us == least else text)
        star = " *" if why_not_quickest(scenario, row) else ""
        table.add_row(str(row[0].world), *cells, row[-1].way + star)
    return table


def notes(scenario: Scenario, found: Sequence[Point]) -> list[str]:
    """Returns the lines below the table."""
    reasons = [why_not_quickest(scenario, row) for row in rows(scenario, found)]
    lines = [f"* {reason}" for reason in reasons if reason]
    if any(point.simulated_us is None for point in found):
        lines.append(
            f"~ the price: over {scenario.max_steps:,} steps, which --max-steps N would simulate"
        )
    return lines


def rows(scenario: Scenario, found: Sequence[Point]) -> list[list[Point]]:
    """Returns the points of each world."""
    return [[point for point in found if point.world == world] for world in scenario.worlds]


def write_json(scenario: Scenario, found: Sequence[Point], path: Path) -> None:
    """Writes the scenario and every number of every point."""
    content: dict[str, Any] = {
        "collective": scenario.collective,
        "size_bytes": scenario.size_bytes,
        "ranks_per_host": scenario.ranks_per_host,
        "lanes": scenario.lanes or 1,
        "constants": scenario.constants.text(),
        "slow_ranks": scenario.slow_ranks,
        "slow_links": list(scenario.slow_links),
        "points": [vars(point) for point in found],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def draw(scenario: Scenario, found: Sequence[Point], path: Path) -> None:
    """Draws time against ranks: simulated times as lines, prices dotted, `auto` as crosses."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for algorithm in scenario.columns:
        curve = [point for point in found if point.algorithm == algorithm]
        simulated = [point for point in curve if point.simulated_us is not None]
        (line,) = axis.plot(
            [point.world for point in simulated],
            [point.time_us for point in simulated],
            marker="x" if algorithm == AUTO else ".",
            linestyle="none" if algorithm == AUTO else "-",
            color="black" if algorithm == AUTO else None,
            label=algorithm,
        )
        if algorithm == AUTO:
            continue
        axis.plot(
            [point.world for point in curve],
            [point.predicted_us for point in curve],
            linestyle=":",
            color=line.get_color(),
        )
    axis.plot([], [], linestyle=":", color="gray", label="predicted")
    axis.set_xscale("log", base=2)
    if any(point.time_us > 0 for point in found):  # a world of one rank takes no time
        axis.set_yscale("log")
    axis.set_xticks(list(scenario.worlds), [str(world) for world in scenario.worlds])
    axis.minorticks_off()
    axis.set_xlabel("ranks")
    axis.set_ylabel("time of a call (us)")
    axis.set_title(title(scenario), loc="left", fontsize=10)
    axis.set_title(machine.origin(), loc="right", fontsize=8, color="gray")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
