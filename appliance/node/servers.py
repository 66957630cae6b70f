"""How the servers of the virtual services are: from what IPVS does with them, the files that drain
them, and the last word of their checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from appliance.node import ipvs
from appliance.node.balancing import Balancing, RealServer, Service
from appliance.node.checks import Key, Verdict, Verdicts
from appliance.node.ipvs import Table
from appliance.node.netlink import Address

# How often to ask what the checks said while there is a server that only they know of.
_AGAIN_S = 30.0


class State(StrEnum):
    """What becomes of a server's share of new connections."""

    UP = "up"
    DOWN = "down"  # its check fails
    DRAINED = "drained"  # by an operator; it keeps what it has
    OFF = "off"  # the site gives it weight 0
    ASIDE = "aside"  # well, but the quorum is missed and the sorry server has taken over


def is_drained(file: Path) -> bool:
    """Whether an operator has taken the server out; keepalived reads the file alike."""
    try:
        return file.read_text().strip() not in ("", "0")
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Seen:
    """A server at a moment; `entry` is None where IPVS does not have it."""

    key: Key
    server: RealServer
    entry: ipvs.Server | None
    drained: bool
    sorry: bool

    @property
    def doubtful(self) -> bool:
        """Whether only the checks know how it is."""
        return self.state(None) in (State.DOWN, State.ASIDE) or self.drained

    def state(self, verdict: Verdict | None) -> State:
        """`verdict` is the last word of its checks, if there is any."""
        failed = verdict is not None and not verdict.up
        if self.entry is None:
            return State.ASIDE if self.sorry and not failed else State.DOWN
        if self.entry.weight:
            return State.UP
        if self.server.weight == 0 or self.drained:
            # With `on_failure: weight-zero` a server that failed is here as well.
            return State.DOWN if failed else State.DRAINED if self.drained else State.OFF
        return State.DOWN


def look(balancing: Balancing, table: Table) -> Iterator[tuple[Service, int, list[Seen]]]:
    """Each service in each IP version that it has, with its servers."""
    for service in balancing.services:
        for version, mark in service.marks.items():
            found = table.by_mark.get((version, mark))
            entries = {each.address: each for each in found.servers} if found else {}
            yield service, version, list(_seen(service, version, mark, entries))


def _seen(
    service: Service, version: int, mark: int, entries: Mapping[Address, ipvs.Server]
) -> Iterator[Seen]:
    sorry = any(each in entries and entries[each].weight for each in service.sorry)
    for server in service.servers:
        if address := server.address(version):
            drained = is_drained(server.drain)
            yield Seen((mark, address), server, entries.get(address), drained, sorry)


@dataclass(slots=True)
class Watch:
    """The state of each server, since when, and why. Times are wall seconds but where they are
    called `now`.
    """

    said: Verdicts = field(default_factory=dict)
    _states: dict[Key, tuple[State, float]] = field(default_factory=dict)
    _next: float = float("-inf")

    def look(self, all_of_them: Iterable[Seen], now: float, wall: float) -> bool:
        """Take in how they are now; whether it is time to ask what the checks said."""
        doubtful = False
        for seen in all_of_them:
            doubtful |= seen.doubtful
            state = seen.state(self.said.get(seen.key))
            if self._states.get(seen.key, (None, wall))[0] is not state:
                self._states[seen.key] = state, wall
                self._next = now
        if not doubtful or now < self._next:
            return False
        self._next = now + _AGAIN_S
        return True

    def learn(self, said: Verdicts) -> None:
        """Take in what the checks said; the journal may have forgotten what we know."""
        self.said = {**self.said, **said}

    def told(self) -> list[dict[str, Any]]:
        """As the agent's state has it: those that are not up."""
        states = self._states.items()
        return [self._told(key, *each) for key, each in states if each[0] is not State.UP]

    def _told(self, key: Key, state: State, since: float) -> dict[str, Any]:
        told = {"mark": key[0], "address": str(key[1]), "state": state}
        return {**told, **why(state, since, self.said.get(key))}


def why(state: State, since: float | None, verdict: Verdict | None) -> dict[str, Any]:
    """Since when a server is so, and the reason; the checks know of a failure only."""
    if state is State.DOWN and verdict and not verdict.up:
        return {"since": verdict.since, "why": verdict.why}
    return {"since": since, "why": None}
