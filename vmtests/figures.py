"""Figures: measured by tests, printed at the end of the run, written to docs/figures.md when asked."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import pytest
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: samples in `unit`, smaller is better; `goal` says in words what was to be reached."""

    what: str
    unit: str
    samples: tuple[float, ...]
    goal: str

    @property
    def row(self) -> tuple[str, str, str, str, str]:
        """What, median, worst, how many, goal."""
        return (
            self.what,
            f"{median(self.samples):.3g} {self.unit}",
            f"{max(self.samples):.3g} {self.unit}",
            str(len(self.samples)),
            self.goal,
        )


@dataclass(slots=True)
class Figures:
    """All figures of one run, in the order they were measured."""

    rows: list[Figure] = field(default_factory=list)

    def add(self, what: str, unit: str, *samples: float, goal: str) -> Figure:
        """Keep a figure; the test that measured it judges it."""
        figure = Figure(what, unit, samples, goal)
        self.rows.append(figure)
        return figure

    HEAD = ("what", "median", "worst", "samples", "goal")

    def print(self, console: Console) -> None:
        """The table, for people."""
        table = Table(*self.HEAD, title="figures")
        for figure in self.rows:
            table.add_row(*figure.row)
        console.print(table)

    def markdown(self, command: str) -> str:
        """The page docs/figures.md, with the command and the machine that gave it."""
        lines = ["| " + " | ".join(self.HEAD) + " |", "|" + "---|" * len(self.HEAD)]
        lines += ["| " + " | ".join(figure.row) + " |" for figure in self.rows]
        return PAGE.format(command=command, machine=machine(), table="\n".join(lines))


PAGE = """# Figures

Measured by `{command}`, which writes this page; every row is judged by the test that measures it.
The machine: {machine}. Without hardware virtualisation a guest runs some ten times slower than on
real hardware, so the times that depend on the processor are upper bounds.

{table}
"""


def machine() -> str:
    """Cores, memory and virtualisation of this machine, in words."""
    memory = Path("/proc/meminfo").read_text().split()[1]
    cores = Path("/proc/cpuinfo").read_text().count("processor\t")
    return (
        f"{cores} cores, {int(memory) / 2**20:.0f} GiB, {platform.machine()}, "
        "QEMU with software emulation (TCG)"
    )


KEY = pytest.StashKey[Figures]()
