"""Figures: measured by tests, shown when the run ends, written to docs/figures.md when asked."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import pytest

from appliance import tools
from appliance.image.peers import peers_image
from appliance.lab import kvm


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: samples in `unit`, smaller is better; `goal` in words."""

    what: str
    unit: str
    samples: tuple[float, ...]
    goal: str

    @property
    def median(self) -> float:
        """The median of the samples."""
        return median(self.samples)

    @property
    def worst(self) -> float:
        """The largest sample."""
        return max(self.samples)

    @property
    def row(self) -> tuple[str, str, str, str, str]:
        """What, median, worst, how many, goal."""
        return (
            self.what,
            f"{self.median:.4g} {self.unit}",
            f"{self.worst:.4g} {self.unit}",
            str(len(self.samples)),
            self.goal,
        )


HEAD = ("what", "median", "worst", "samples", "goal")


@dataclass(slots=True)
class Figures:
    """All figures of one run, in the order they were measured.

    `started` has the seconds from nothing to a ready pair, by the pair's site.
    """

    rows: list[Figure] = field(default_factory=list)
    started: dict[str, float] = field(default_factory=dict)

    def add(self, what: str, unit: str, *samples: float, goal: str) -> Figure:
        """Keep a figure; the test that measured it judges it."""
        figure = Figure(what, unit, samples, goal)
        self.rows.append(figure)
        return figure

    def extend(self, other: Figures) -> None:
        """Take those of another worker of the same run."""
        self.rows += other.rows
        self.started |= other.started

    def lines(self) -> list[str]:
        """The table as Markdown, a line each; nothing when nothing was measured."""
        if not self.rows:
            return []
        rows = [HEAD, ("---",) * len(HEAD), *(figure.row for figure in self.rows)]
        return ["| " + " | ".join(row) + " |" for row in rows]

    def markdown(self, command: str, page: str = "") -> str:
        """The page docs/figures.md, with the command and the machine that gave it; of the `page`
        that is there it keeps the rows of what was not measured.
        """
        kept = [line for line in page.splitlines() if line.startswith("| ")]
        rows = {line.split(" | ")[0]: line for line in (*kept, *self.lines())}
        return PAGE.format(command=command, machine=machine(), table="\n".join(rows.values()))


PAGE = """# Figures

Measured by `{command}`, which writes this page; with `ONLY=` and a part of a test's name, only its
rows. Every goal is judged by the test that measures it.
The machine: {machine}.
Without KVM a guest is slower than real hardware: what depends on its processor is an upper bound.

{table}
"""


def machine() -> str:
    """Cores, memory and virtualisation of this machine, in words."""
    memory = Path("/proc/meminfo").read_text().split()[1]
    cores = Path("/proc/cpuinfo").read_text().count("processor\t")
    accelerator = kvm.accelerator(tools.ensure(), peers_image().kernel)
    gib = int(memory) / 2**20
    return f"{cores} cores, {gib:.0f} GiB, {platform.machine()}; QEMU with `{accelerator}`"


KEY = pytest.StashKey[Figures]()
