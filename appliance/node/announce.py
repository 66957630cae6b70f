"""Have the kernel tell of the TCP sequences that its FTP helper shifts.

When the helper rewrites a PORT, EPRT or 227 line it changes the line's length, and from then on the
sequence numbers of the connection. The kernel raises no event for that (nf_ct_seqadj_set), so
conntrackd would never send the offsets to the peer, and after a takeover the control connection is
dead. An update that changes nothing raises an event that bears them. Each line that is rewritten
has its own new expectation, announced just before the line is changed, so we touch the
connection a little later: soon, and again in case that this machine stood still just then.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from appliance.node.ctnetlink import Master

DELAYS_S = (0.002, 0.02, 0.2)


@dataclass(slots=True)
class Announcements:
    """Connections to touch, each at its times; no more than `limit` wait."""

    limit: int
    overflowed: bool = False
    _count: int = 0
    _queue: list[tuple[float, int, Master]] = field(default_factory=list)

    def add(self, master: Master, now: float) -> None:
        """Its sequence may be shifted right now."""
        if len(self._queue) + len(DELAYS_S) > self.limit:
            self.overflowed = True
            return
        for delay in DELAYS_S:
            self._count += 1
            heapq.heappush(self._queue, (now + delay, self._count, master))

    def due(self, now: float) -> list[Master]:
        """The connections to touch now, each once."""
        found: dict[Master, None] = {}
        while self._queue and self._queue[0][0] <= now:
            found[heapq.heappop(self._queue)[2]] = None
        return list(found)

    def next(self) -> float:
        """When something is due."""
        return self._queue[0][0] if self._queue else float("inf")
