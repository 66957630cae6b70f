"""What the two agents tell each other: a word each fifth of a second, on every sync network.

A word is one UDP datagram of JSON. What it says of time is an age, so that the clocks of the two
nodes need not agree. Keys that the other end does not know are passed over: during an upgrade
the nodes are of different versions.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any

from appliance.node.config import AGENT_PORT, Link
from appliance.node.events import Role

EVERY_S = 0.2
SILENT_S = 1.0  # without a word for so long the other agent counts as gone
_LARGEST = 60_000  # bytes; IP puts the fragments together

Period = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What one agent says.

    `run` tells one run of the agent from the next, `number` counts its words, `rank` differs
    from the other's. `active` is its
    latest time as the active node: how many seconds ago it began and ended (0: it has not).
    `dead` are the network cards on which no neighbour answers it, `neighbours` some that do.
    `wants` asks for the whole table anew. `busy` is what it is at that must not happen on both
    nodes at once (see `busy.py`).

    Of IPVS, None where nothing is balanced: `connections` and `templates` are how many it has;
    `lacks` asks for all of them; `takes` says that they would be taken in, `replays` that they are
    being sent.
    """

    run: int
    number: int
    rank: str
    node: str
    site: str
    digest: str
    version: str
    role: Role
    role_s: float
    active: Period | None = None
    yields: bool = False
    dead: tuple[str, ...] = ()
    neighbours: dict[str, list[str]] = field(default_factory=dict)
    internal: int | None = None
    external: int | None = None
    wants: bool = False
    connections: int | None = None
    templates: int | None = None
    takes: bool = False
    lacks: bool = False
    replays: bool = False
    alarms: dict[str, str] = field(default_factory=dict)
    busy: str = ""


_NAMES = tuple(each.name for each in fields(Word))
_encode = json.JSONEncoder(separators=(",", ":")).encode


def encode(word: Word) -> bytes:
    """The datagram of a word."""
    return _encode({name: getattr(word, name) for name in _NAMES}).encode()


def decode(data: bytes) -> Word | None:
    """The word in a datagram; None when it is none."""
    try:
        raw: dict[str, Any] = json.loads(data)
        known = {name: raw[name] for name in _NAMES if name in raw}
        known["role"] = Role(known["role"])
        known["dead"] = tuple(known.get("dead", ()))
        active = known.get("active")
        known["active"] = (float(active[0]), float(active[1])) if active else None
        return Word(**known)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None


@dataclass(slots=True)
class Peer:
    """What is known of the other agent. Times are monotonic seconds of this node."""

    word: Word | None = None
    heard: float = float("-inf")
    heard_first: float = float("-inf")  # by the first link
    lost: int = 0  # words that never came
    awake: float = float("-inf")  # since when it is known not to have stood still

    def take(self, word: Word, now: float) -> bool:
        """Take in a word; whether it is news: on two links each comes twice."""
        last, silence = self.word, now - self.heard
        if last and last.run == word.run:
            missing = word.number - last.number - 1
            if missing < 0:
                return False
            self.lost += missing
            # Silent because of the network, it went on counting; frozen, it did not.
            if silence > SILENT_S and missing * EVERY_S < silence / 2:
                self.awake = now
        self.word, self.heard = word, now
        return True

    def active_with(self, own: Period | None, now: float) -> float:
        """For how many seconds both nodes were active; `own` as in `Word.active`."""
        told = self.word.active if self.word else None
        if own is None or told is None:
            return 0.0
        began = min(own[0], told[0], now - self.awake)
        return max(0.0, began - max(own[1], told[1]))

    def present(self, now: float) -> Word | None:
        """Its latest word, while it counts."""
        return self.word if now - self.heard < SILENT_S else None

    def present_on_first(self, now: float) -> Word | None:
        """The same, while words come by the first link: what IPVS tells has no other."""
        return self.present(now) if now - self.heard_first < SILENT_S else None


class Links:
    """A socket for each sync network, between our own address and the peer's."""

    def __init__(self, links: tuple[Link, ...], port: int = AGENT_PORT) -> None:
        self.sockets = [_socket(link, port) for link in links]
        self.run = int.from_bytes(os.urandom(6))
        self._number = 0

    def next_number(self) -> int:
        """The number of the next word."""
        self._number += 1
        return self._number

    def send(self, data: bytes) -> None:
        """On every link; a link that is down is no reason to wait."""
        for each in self.sockets:
            with suppress(OSError):
                each.send(data[:_LARGEST])

    def receive(self) -> Iterator[tuple[int, bytes]]:
        """Every datagram that has come, with the number of its link."""
        for number, each in enumerate(self.sockets):
            while True:
                try:
                    yield number, each.recv(_LARGEST)
                except OSError:  # nothing more; or its port was closed a moment ago
                    break


def _socket(link: Link, port: int) -> socket.socket:
    family = socket.AF_INET6 if link.own.version == 6 else socket.AF_INET
    end = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    end.setblocking(False)
    # net.ipv4.ip_nonlocal_bind and its twin let us be here before the address is.
    end.bind((str(link.own), port))
    end.connect((str(link.peer), port))
    return end
