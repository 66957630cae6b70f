"""The fault matrix: collected by tests, shown at their end, written to docs/fault-matrix.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median

import pytest

from appliance.lab.drill import Outcome
from appliance.lab.faults import catalogue
from appliance.lab.load import USUAL, Cell, cells
from vmtests import expected
from vmtests.figures import machine
from vmtests.ways import PLAN, WAYS

MILLISECONDS = 1000
DASH = "\N{EN DASH}"

# In these nothing but a power loss interrupts the traffic.
POWER_LOSSES = (
    "power loss",
    "ten power losses in a row",
    "sync lost, then power loss",
    "20 % loss on sync, then power loss",
    "clock an hour ahead, then power loss",
    "standby's clock an hour behind, then power loss",
)


@dataclass(frozen=True, slots=True)
class Tally:
    """Of some cells: how many must be kept, how many were, and why others need not be."""

    promised: int
    kept: int
    reasons: tuple[str, ...]

    @classmethod
    def of(cls, outcome: Outcome, cells: Iterable[Cell]) -> Tally:
        """Count the cells of an outcome."""
        fates = [(outcome.reports[c].survived, expected.loss(outcome.fault, c)) for c in cells]
        promised = [survived for survived, loss in fates if not loss]
        reasons = dict.fromkeys(loss.reason for _, loss in fates if loss)
        return cls(len(promised), sum(promised), tuple(reasons))


@dataclass(slots=True)
class Matrix:
    """All outcomes of one run, in the order of the tests; the controls apart."""

    rows: list[Outcome] = field(default_factory=list)
    controls: list[Outcome] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether every fault and every control is here, under every cell."""
        names = {fault.name for fault in catalogue(PLAN)} | set(expected.BESIDES)
        full = {o.fault for o in self.rows if len(o.reports) == len(cells(WAYS))}
        return full == names and {o.fault for o in self.controls} == set(expected.MISSING)

    def extend(self, other: Matrix) -> None:
        """Take those of another worker of the same run."""
        self.rows += other.rows
        self.controls += other.controls

    def lines(self) -> list[str]:
        """The page's tables and totals as Markdown, a line each; nothing when nothing was run."""
        if not self.rows:
            return []
        notes: dict[str, int] = {}
        table = [_line(("fault", *map(str, USUAL), "gap", "takeovers"))]
        table += [_line(["---"] * (len(USUAL) + 3))]
        table += [_line(_cells(outcome, notes)) for outcome in self.rows]
        footnotes = [f"{number}. {reason}" for reason, number in notes.items()]
        return [*table, "", *footnotes, "", *self.totals(), "", *self._controls()]

    def totals(self) -> list[str]:
        """Sessions promised, kept and lost; takeovers; gaps of power losses."""
        tallies = [Tally.of(outcome, outcome.reports) for outcome in self.rows]
        promised, kept = (sum(getattr(t, name) for t in tallies) for name in ("promised", "kept"))
        gaps = [o.gap * MILLISECONDS for o in self.rows if o.fault in POWER_LOSSES] or [0.0]
        return [
            f"{len(self.rows)} faults, {sum(o.takeovers for o in self.rows)} takeovers. "
            f"Sessions promised: {promised}; kept: {kept}; lost: {promised - kept}.",
            f"Gap at a power loss, under this load: "
            f"median {median(gaps):.0f} ms, worst {max(gaps):.0f} ms.",
        ]

    def _controls(self) -> Iterator[str]:
        if not self.controls:
            return
        yield _line(("what was taken away", "sessions that must be lost", "lost", "other", "kept"))
        yield _line(["---"] * 5)
        for outcome in self.controls:
            doomed = [c for c in outcome.reports if expected.loss(outcome.fault, c)]
            others = [c for c in outcome.reports if c not in doomed]
            lost = sum(not outcome.reports[c].survived for c in doomed)
            kept = sum(outcome.reports[c].survived for c in others)
            yield _line(map(str, (outcome.fault, len(doomed), lost, len(others), kept)))

    def markdown(self, command: str) -> str:
        """The page, with the command and the machine that gave it."""
        return PAGE.format(command=command, machine=machine(), table="\n".join(self.lines()))


def _cells(outcome: Outcome, notes: dict[str, int]) -> list[str]:
    groups = ([c for c in outcome.reports if c.kind is kind] for kind in USUAL)
    tallies = (Tally.of(outcome, group) for group in groups)
    gap = f"{outcome.gap * MILLISECONDS:.0f} ms"
    return [outcome.fault, *(_words(t, notes) for t in tallies), gap, str(outcome.takeovers)]


def _words(tally: Tally, notes: dict[str, int]) -> str:
    numbers = [notes.setdefault(reason, len(notes) + 1) for reason in tally.reasons]
    count = f"{tally.kept}/{tally.promised}" if tally.promised else (DASH if numbers else "")
    return " ".join([count, *(f"({number})" for number in numbers)])


def _line(words: Iterable[str]) -> str:
    return "| " + " | ".join(words) + " |"


PAGE = """# Fault matrix

Made by `{command}`, which writes this page from one whole run. The site is
[vmtests/sites/matrix.yaml](../vmtests/sites/matrix.yaml), the image is the one that ships.
The machine: {machine}.

Each row is one fault that a ready pair underwent while all kinds of traffic ran through it: out by
source NAT, in by destination NAT, and over IPv6; FTP by PASV, EPSV, PORT and EPRT. "12/12": so many
sessions kept, of so many that must be. A session is kept when every byte came through it, in the
end as well, after everything was healed. The gap is the longest time without an answer to a UDP
probe each 5 ms, on the worst of the ways; with so much traffic the machine is at its limit by
emulation alone, so that these gaps are upper bounds, and [figures.md](figures.md) has those of a
calm one. A takeover is a move of the virtual addresses, as the hosts around were told. A fault of a
daemon, of memory or of the disk is followed by a power loss of the active node: what was repaired
must carry.

{table}

In the last table something was taken away first, and the active node lost power: what must then be
lost has to be lost, else the matrix above would prove nothing. With lax rules everything survives
although no state was synced: only strict rules make the tests tell the truth.
"""

KEY = pytest.StashKey[Matrix]()
