"""A learning Ethernet switch as a pure value machine: a frame in, the frames to deliver out.

It has no sockets and no clock: `appliance.lab.switchd` gives it both, and the tests give it
neither. It learns
addresses as a real one does, because a hub would hide a missing gratuitous ARP after a takeover.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from appliance.lab.frames import Match, dissect

AGEING = 300.0  # seconds an address is remembered; IEEE 802.1Q-2022, table 8-6
SHORTEST, GROUP_BIT = 14, 0x01


class Way(StrEnum):
    """The direction of a fault, as the machine at the end of the cable sees it."""

    TO = "to"
    FROM = "from"
    BOTH = "both"

    def covers(self, other: Way) -> bool:
        """Whether a fault in this direction also harms the `other` one."""
        return self in (Way.BOTH, other)


@dataclass(frozen=True, slots=True)
class Filter:
    """Drop every frame of one kind, in one direction or both."""

    match: Match
    way: Way = Way.BOTH


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong with one cable. `loss` in percent (seeded), `delay` in milliseconds each
    way.
    """

    cut: bool = False
    silence: Way | None = None
    loss: float = 0.0
    seed: int = 0
    delay: float = 0.0
    filters: tuple[Filter, ...] = ()

    def words(self) -> str:
        """The faults for a person's eyes; empty when the cable is sound."""
        quiet = {None: "", Way.BOTH: "silent", Way.TO: "silent to", Way.FROM: "silent from"}
        parts = ["cut" if self.cut else "", quiet[self.silence]]
        parts += [f"loss {self.loss:g} %" if self.loss else ""]
        parts += [f"delay {self.delay:g} ms" if self.delay else ""]
        parts += [f"{len(self.filters)} filters" if self.filters else ""]
        return ", ".join(filter(None, parts))

    def as_json(self) -> dict[str, Any]:
        """The form in which they travel to the switch."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Faults:
        """What `as_json` gave."""
        filters = tuple(
            Filter(Match(**each["match"]), Way(each["way"])) for each in data["filters"]
        )
        silence = Way(data["silence"]) if data["silence"] else None
        return cls(**{**data, "filters": filters, "silence": silence})


class Delivery(NamedTuple):
    """A frame that leaves by `port` at the time `due` (seconds, the caller's clock)."""

    due: float
    port: str
    frame: bytes


@dataclass(slots=True)
class _Port:
    faults: Faults = field(default_factory=Faults)
    dice: random.Random = field(default_factory=random.Random)
    count: Counter[str] = field(default_factory=Counter)

    def passes(self, frame: bytes, way: Way) -> bool:
        faults = self.faults
        if faults == Faults():
            return True
        if faults.cut or (faults.silence and faults.silence.covers(way)):
            return False
        if faults.loss and self.dice.random() * 100 < faults.loss:
            return False
        if not faults.filters:
            return True
        packet = dissect(frame)
        return not any(f.way.covers(way) and f.match.hits(packet) for f in faults.filters)


class Switch:
    """One network. Ports are named after the machines; unknown and group addresses are flooded."""

    def __init__(self, ports: tuple[str, ...]) -> None:
        self.ports = {name: _Port() for name in ports}
        self._homes: dict[bytes, tuple[str, float]] = {}
        self._last: dict[tuple[str, str], float] = {}

    def set_faults(self, port: str, faults: Faults) -> None:
        """Replace what is wrong with a cable. The same seed gives the same losses again."""
        self.ports[port].faults = faults
        self.ports[port].dice.seed(faults.seed)
        if faults.cut:
            self.forget(port)

    def forget(self, port: str) -> None:
        """Drop the addresses learnt at `port`, as a switch does when the carrier is lost."""
        self._homes = {mac: home for mac, home in self._homes.items() if home[0] != port}

    def frame(self, port: str, frame: bytes, now: float) -> list[Delivery] | None:
        """Take a frame from the machine at `port`; None if its own cable swallowed it."""
        source = self.ports[port]
        if len(frame) < SHORTEST or not source.passes(frame, Way.FROM):
            source.count["lost"] += 1
            return None
        source.count["in"] += 1
        if not frame[6] & GROUP_BIT:
            self._homes[frame[6:12]] = (port, now)
        outward = (out for out in self._outward(frame, now) if out != port)
        return [each for out in outward if (each := self._deliver(port, out, frame, now))]

    def _outward(self, frame: bytes, now: float) -> tuple[str, ...]:
        home = self._homes.get(frame[:6])
        if home and now - home[1] < AGEING:
            return (home[0],)
        return tuple(self.ports)

    def _deliver(self, port: str, out: str, frame: bytes, now: float) -> Delivery | None:
        target = self.ports[out]
        if not target.passes(frame, Way.TO):
            target.count["lost"] += 1
            return None
        target.count["out"] += 1
        delay = self.ports[port].faults.delay + target.faults.delay
        due = max(now + delay / 1000, self._last.get((port, out), 0.0))
        self._last[port, out] = due  # a cable keeps its order, also when the delay is changed
        return Delivery(due, out, frame)

    def counts(self) -> dict[str, dict[str, int]]:
        """Frames in, out and lost for each port."""
        return {name: dict(port.count) for name, port in self.ports.items()}
