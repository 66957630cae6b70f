"""Which node should carry the role when VRRP alone cannot tell.

VRRP knows whether adverts arrive. It does not know that a cable swallows what it is given, and two
nodes that do not hear each other's adverts both become active. The agents still talk over the sync
network: the rules here let one of them yield, which keepalived sees as a fault of that node. Pure:
what both sides say comes in, a reason to yield comes out, or none.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.node.events import Role
from appliance.node.peer import Word

# The other node needs time to look for itself whether a neighbour is dead for all.
_WORSE_S = 3.0
_TIE_S = 0.2

# Longest for keepalived to give up the role after we yielded: it watches the file.
OBEY_S = 3.0


@dataclass(frozen=True, slots=True)
class Standing:
    """What speaks for a node: its role, since how many seconds, and networks that are dead for it.

    `rank` decides between two that became active at the same time: any order will do that both
    see the same way.
    """

    role: Role
    role_s: float
    dead: int
    yields: bool
    rank: str

    @classmethod
    def of(cls, word: Word, age: float) -> Standing:
        """As the other agent told, `age` seconds ago."""
        return cls(word.role, word.role_s + age, len(word.dead), word.yields, word.rank)


@dataclass(slots=True)
class Arbiter:
    """`settle_s`: how long VRRP may take to settle by itself, in seconds."""

    settle_s: float
    reason: str | None = None  # why this node yields at present
    since: float = 0.0
    _worse_since: float | None = None

    def judge(self, now: float, own: Standing, peer: Standing | None, adverts: bool) -> str | None:
        """Why this node should yield now; None when it should not.

        `peer` is None when the other agent is not heard; `adverts`: all of the peer's adverts
        arrive here.
        """
        reason = self._reason(now, own, peer, adverts)
        if reason != self.reason:
            self.reason, self.since = reason, now
        return reason

    def _reason(
        self, now: float, own: Standing, peer: Standing | None, adverts: bool
    ) -> str | None:
        worse = peer is not None and own.dead > peer.dead and peer.role_s >= _WORSE_S
        self._worse_since = (self._worse_since or now) if worse else None
        if peer is None or peer.yields or peer.role not in (Role.MASTER, Role.BACKUP):
            return None
        if self._worse_since is not None and now - self._worse_since >= _WORSE_S:
            return "the peer reaches more of its neighbours"
        return self._dispute(own, peer, adverts)

    def _dispute(self, own: Standing, peer: Standing, adverts: bool) -> str | None:
        """Both active: the one that was so first yields, for the hosts follow the newcomer's
        gratuitous ARP by now. It stays aside until the adverts are heard again.
        """
        words = "both nodes are active: adverts do not arrive"
        if self.reason == words:
            return words if peer.role is Role.MASTER and not adverts else None
        both = own.role is peer.role is Role.MASTER
        if not both or min(own.role_s, peer.role_s) < self.settle_s:
            return None
        older = own.role_s - peer.role_s
        first = older > 0 if abs(older) > _TIE_S else own.rank < peer.rank
        return words if first else None
