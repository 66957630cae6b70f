"""What this node knows of the pair beside VRRP: the peer's words, its adverts, the neighbours."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from appliance.node import peer as protocol
from appliance.node.adverts import Adverts
from appliance.node.arbiter import Arbiter, Standing
from appliance.node.config import Config
from appliance.node.events import Role
from appliance.node.peer import Links, Peer, Period, Word
from appliance.node.reach import Reach
from appliance.node.world import World

log = logging.getLogger("appliance.agent")

# Shorter than what the daemons need to tell each other of a transition.
_SHORTEST_S = 0.1
# An advert may be late by one more of its intervals.
_ADVERTS = 4
# VRRP settles within three adverts and its skew; then it gets as much time again.
_SETTLE_ADVERTS = 7


@dataclass(slots=True)
class Witness:
    """Everything here is read and told, never waited for."""

    config: Config
    world: World
    links: Links
    peer: Peer = field(default_factory=Peer)
    both_active: dict[str, Any] | None = None
    reach: Reach = field(init=False)
    adverts: Adverts = field(init=False)
    arbiter: Arbiter = field(init=False)
    _overlap_began: float = float("-inf")

    def __post_init__(self) -> None:
        peers = frozenset(self.config.peers)
        self.reach = Reach(self.config.cards, peers)
        self.adverts = Adverts(peers)
        self.arbiter = Arbiter(max(0.7, _SETTLE_ADVERTS * self.config.advert_s))

    def hear(self, now: float, own: Period | None) -> bool:
        """Take in the peer's words; whether it has just left the active role."""
        left = False
        for link, data in self.links.receive():
            word = protocol.decode(data)
            before = self.peer.word
            if word and link == 0:
                self.peer.heard_first = now
            if word and self.peer.take(word, now):
                if before and before.run == word.run and before.role is Role.MASTER:
                    left |= word.role is not Role.MASTER
                self._note_overlap(now, own)
        return left

    def _note_overlap(self, now: float, own: Period | None) -> None:
        """Keep how long both nodes were active, for each time that they were."""
        seconds = self.peer.active_with(own, now)
        if own is None or seconds < _SHORTEST_S:
            return
        # One and the same as long as neither of the two times began anew.
        began = now - own[0]
        before = self.both_active or {"times": 0, "seconds": 0.0}
        fresh = abs(began - self._overlap_began) > _SHORTEST_S
        if fresh:
            log.warning("both nodes are active, for %.1f s so far", seconds)
            self._overlap_began = began
        self.both_active = {
            "wall": self.world.wall(),
            "seconds": round(seconds, 2),
            "times": before["times"] + fresh,
        }

    def look(self, now: float) -> None:
        """Once a second: which neighbours answered, and ask again."""
        states = self.world.neighbours()
        word = self.peer.present(now)
        hints: Mapping[str, list[str]] = word.neighbours if word else {}
        self.world.ask_neighbours(self.reach.round(states, hints), states)

    def judge(self, now: float, role: Role, role_s: float) -> str | None:
        """Why this node should leave the role to its peer; None when it should not."""
        self.adverts.listen(now)
        word = self.peer.present(now)
        other = Standing.of(word, now - self.peer.heard) if word else None
        own = Standing(role, role_s, len(self.reach.dead), bool(self.arbiter.reason), self._rank())
        heard = self.adverts.all_since(now - _ADVERTS * self.config.advert_s)
        return self.arbiter.judge(now, own, other, heard)

    def _rank(self) -> str:
        return str(self.config.links[0].own)

    def speak(self, **said: Any) -> None:
        """Tell the peer; what this object knows itself need not be said."""
        word = Word(
            run=self.links.run,
            number=self.links.next_number(),
            rank=self._rank(),
            yields=bool(self.arbiter.reason),
            dead=self.reach.dead,
            neighbours=self.reach.told(),
            **said,
        )
        self.links.send(protocol.encode(word))
