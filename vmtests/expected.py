"""Which traffic a fault may cost: every exception from "nothing is lost", with its reason.

What stands here must be lost, else the table is wrong: an exception is no excuse for either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from appliance.lab.flows import Report
from appliance.lab.load import Cell, Kind, Mode

ALONE_BEFORE = "one node alone, opened before"
ALONE_MEANWHILE = "one node alone, opened meanwhile"
BOTH_BEFORE = "both nodes without power, opened before"
BOTH_AFTER = "both nodes without power, opened after"
UNTOLD = "sync lost, opened meanwhile, then power loss"
BESIDES = (ALONE_BEFORE, ALONE_MEANWHILE, BOTH_BEFORE, BOTH_AFTER, UNTOLD)

NO_CONNTRACKD = "no conntrackd"
NOT_ANNOUNCED = "sequence adjustment not announced"
NOT_HANDED_OVER = "expectations not handed over"
NEITHER = "neither announced nor handed over"
LAX = "no conntrackd, and lax rules"
MISSING = (NO_CONNTRACKD, NOT_ANNOUNCED, NOT_HANDED_OVER, NEITHER, LAX)

# Ways through the pair and FTP's modes in which its NAT rewrites an address in a command or an
# answer, so that lengths change.
REWRITTEN = frozenset(
    {("snat", Mode.PORT), ("snat", Mode.EPRT), ("dnat", Mode.PASV)},
)

# A datagram needs no memory: a rule lets it in anew, and NAT rewrites it as before.
REMEMBERED = frozenset(Kind) - {Kind.UDP}


@dataclass(frozen=True, slots=True)
class Loss:
    """These kinds of traffic are lost by this fault; of FTP's, only on `ways` if they are given."""

    fault: str
    kinds: frozenset[Kind]
    reason: str
    ways: frozenset[tuple[str, Mode]] | None = None

    def covers(self, fault: str, cell: Cell) -> bool:
        """Whether this is about the cell under the fault."""
        here = self.ways is None or (cell.mode and (cell.path.name, cell.mode) in self.ways)
        return fault == self.fault and cell.kind in self.kinds and bool(here)


LOSSES = (
    Loss(
        BOTH_BEFORE,
        REMEMBERED,
        "connections are remembered in the nodes' memory, and nowhere else",
    ),
    Loss(
        UNTOLD,
        REMEMBERED,
        "the only node that knew of it died before it could tell; a second sync network helps",
    ),
)

# What the negative controls take away, and what must then be lost.
SHIFTED = Loss(
    NOT_ANNOUNCED,
    frozenset({Kind.DOWNLOAD, Kind.UPLOAD, Kind.NEXT, Kind.HELD}),
    "the other node does not know by how much NAT shifted the sequence numbers",
    REWRITTEN,
)
AWAITED = Loss(
    NOT_HANDED_OVER,
    frozenset({Kind.HELD}),
    "no rule of this site lets in a data connection that the helper does not expect",
)
CONTROLS = (
    Loss(NO_CONNTRACKD, REMEMBERED, "the other node knows of no connection"),
    *(SHIFTED, AWAITED, replace(SHIFTED, fault=NEITHER), replace(AWAITED, fault=NEITHER)),
)


def loss(fault: str, cell: Cell) -> Loss | None:
    """Why the cell is lost under this fault; None when it must be kept."""
    return next((each for each in (*LOSSES, *CONTROLS) if each.covers(fault, cell)), None)


def wrong(fault: str, reports: Mapping[Cell, Report]) -> list[str]:
    """What became of the cells otherwise than expected, in words."""
    return [
        f"{cell}: {_fate(report)}, and {'lost' if why else 'kept'} was expected"
        for cell, report in sorted(reports.items(), key=str)
        if report.survived is bool(why := loss(fault, cell))
    ]


def _fate(report: Report) -> str:
    return "kept" if report.survived else f"lost ({report.note or 'no reason given'})"
