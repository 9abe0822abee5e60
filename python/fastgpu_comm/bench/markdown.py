"""Pieces of the Markdown pages that benchmarks write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastgpu_comm.bench import machine


def table(head: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """Returns a table, with a newline at its end.

    Args:
        head: The names of the columns.
        rows: The cells of each row.
        left: How many columns are aligned left; the others, with numbers, are aligned right.
    """
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in [head, rule, *rows])


def machine_list() -> str:
    """Returns a list that describes this machine, with a newline at its end."""
    return "".join(f"- {name}: {value}\n" for name, value in machine.describe().items())
