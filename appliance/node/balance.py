"""Whether the standby holds what the active node knows, told by the numbers of entries.

conntrackd's own protocol repairs what the network loses; it does not notice what it never sent, or
what it sent to a daemon that died. Pure: two counts come in, what to do comes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

# What may be under way between two counts that are not taken at the same moment.
_FEW, _SHARE = 50, 0.05


class Remedy(Enum):
    """What to do about a difference, from the mildest on."""

    NONE = auto()
    ASK = auto()  # have the peer's conntrackd send what it holds
    RENEW = auto()  # drop what we hold first: we have far more than there is
    WANT = auto()  # have the peer's agent read the kernel's table anew, and send all
    ALARM = auto()  # none of it helped


# The remedy at the nth look in a row that found a difference; the first may be chance.
_BEHIND = (Remedy.NONE, Remedy.ASK, Remedy.WANT, Remedy.WANT)
_AHEAD = (Remedy.NONE, Remedy.ASK, Remedy.RENEW, Remedy.WANT)


@dataclass(slots=True)
class Balance:
    """`difference`: entries that we hold of the peer, less those that it says it has. `behind` are
    the remedies for too few, one for each look.
    """

    behind: tuple[Remedy, ...] = _BEHIND
    difference: int | None = None
    looks: int = 0

    def look(self, ours: int, theirs: int) -> Remedy:
        """Compare, each few seconds."""
        self.difference = ours - theirs
        if abs(self.difference) <= _FEW + _SHARE * max(ours, theirs):
            self.looks = 0
            return Remedy.NONE
        self.looks += 1
        ladder = _AHEAD if self.difference > 0 else self.behind
        return ladder[self.looks - 1] if self.looks <= len(ladder) else Remedy.ALARM

    def forget(self) -> None:
        """Nothing to compare at present."""
        self.difference, self.looks = None, 0
