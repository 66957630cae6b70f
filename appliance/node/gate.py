"""The gate: keepalived may start only when this node holds what its peer knows.

A node that takes over before the peer's table has arrived commits nothing, and every connection
hangs for good. But a node whose peer is dead must come up, and soon. Pure: time and observations
come in, a verdict comes out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from appliance.node.conntrackd import Stats

# conntrackd says that it is alive each second (ALIVE_INT in sync-ftfw.c).
_SETTLE_S = 1.0
_NOTHING_S = 2.0
_BROKEN_S = 5.0


class Outcome(StrEnum):
    """Why the gate let us pass."""

    HELD = "the peer's table is here"
    NOTHING = "the peer answers and has nothing to inherit"
    ABSENT = "nothing heard of the peer: nothing to inherit"
    ACTIVE = "this node is active already"
    BROKEN = "conntrackd does not answer: connections are not synchronised"
    LATE = "time is up before the peer's table was complete"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the gate ended, after how many seconds, and with how many entries from the peer."""

    outcome: Outcome
    seconds: float
    entries: int

    @property
    def alarming(self) -> bool:
        """Whether a person should look."""
        return self.outcome in (Outcome.BROKEN, Outcome.LATE)


@dataclass(slots=True)
class Gate:
    """Begun at the monotonic time `begin`; `limit` and `absent` are in seconds."""

    begin: float
    limit: float
    absent: float
    wants_table: bool = False  # whether the peer should be asked (again) now
    _linked: bool | None = None
    _quiet_since: float = field(init=False)
    _answered: float = field(init=False)
    _received: int | None = None
    _heard: float | None = None
    _asked: float = 0.0
    _mark: int = 0
    _grown: float = 0.0

    def __post_init__(self) -> None:
        self._quiet_since = self._answered = self.begin

    def observe(self, now: float, link: bool, stats: Stats | None) -> Verdict | None:
        """Take in whether the sync link has carrier, and conntrackd's counters (None: silent)."""
        self.wants_table = False
        self._watch_link(now, link)
        entries = stats.external if stats else 0
        outcome = self._hear(now, stats) if stats else self._broken(now)
        if outcome is None and now - self.begin >= self.limit:
            outcome = Outcome.LATE if self._heard is not None or stats is None else Outcome.ABSENT
        return Verdict(outcome, now - self.begin, entries) if outcome else None

    def _watch_link(self, now: float, link: bool) -> None:
        """A link that has just come up gives the peer its whole time to be heard."""
        if link and self._linked is False:
            self._quiet_since = now
        self._linked = link

    def _broken(self, now: float) -> Outcome | None:
        return Outcome.BROKEN if now - self._answered >= _BROKEN_S else None

    def _hear(self, now: float, stats: Stats) -> Outcome | None:
        self._answered = now
        if self._received is None:
            self._received = stats.received
        if self._heard is None and stats.received > self._received:
            self._heard = self._asked = self._grown = now
            self.wants_table = True
        if self._heard is None:
            return Outcome.ABSENT if now - self._quiet_since >= self.absent else None
        return self._settled(now, self._heard, stats.external)

    def _settled(self, now: float, heard: float, entries: int) -> Outcome | None:
        """The table is complete when it has stopped to grow by more than the daily traffic."""
        if entries > self._mark * 1.05 + 10 or (entries and not self._mark):
            self._mark, self._grown = entries, now
        if entries and now - self._grown >= _SETTLE_S:
            return Outcome.HELD
        if not entries and now - heard >= _NOTHING_S:
            return Outcome.NOTHING
        if not entries and now - self._asked >= _SETTLE_S:
            self._asked, self.wants_table = now, True
        return None
