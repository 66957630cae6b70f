"""Give the active role to the peer on purpose: `appliance-handover`, run on the active node.

keepalived tracks a file: when it is not 0 the sync group goes to FAULT, which sends VRRP's
priority 0, so that the peer takes over after its skew time and not after three lost
advertisements (RFC 9568, section 6.4.3).
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from appliance.node import config as configuration
from appliance.node import netlink, statefile
from appliance.node.config import Config
from appliance.node.conntrackd import Conntrackd, NoAnswerError, Request
from appliance.node.events import Role

_HELP = "Give the active role to the other node, without losing a connection."

_POLL_S = 0.02
_PEER_HEARD_S = 3.0  # the peer's conntrackd speaks each second
_TABLE_S = 20.0
_RELEASE_S = 5.0
_WATCH_S = 2.0
# Within FTFW's acknowledgement window; what lies there is at most a second old.
_WINDOW = 300


class RefusedError(Exception):
    """The handover does not begin, or the peer did not take the role."""


@dataclass(frozen=True, slots=True)
class Result:
    """How it went, in milliseconds, in steps of the 20 in which this command looks.

    `released_ms`: until the virtual addresses were gone from here. `gap_ms`: from then until the
    peer's keepalived told its agent that it is active; the commit comes after. That is the moment
    when the agent's word came, less the time that it then said it had been active: this node's
    clock, and a duration of the other's. So it holds the way of one datagram, and is negative when
    the peer was active before we were gone. None when the agents do not tell.
    """

    released_ms: float
    gap_ms: float | None

    def words(self) -> str:
        """The same for a person."""
        gap = "" if self.gap_ms is None else f" {self.gap_ms:.0f} ms later"
        return f"handed over: released in {self.released_ms:.0f} ms, the peer was active{gap}"


@dataclass(frozen=True, slots=True)
class Handover:
    """One handover; times are in seconds."""

    config: Config

    def check(self) -> None:
        """Refuse unless this node is active and the peer has all of our tables."""
        if self.config.preempt:
            raise RefusedError("this site prefers one node (preempt): it would take the role back")
        role = statefile.read(self.config.state)["role"]
        if role != Role.MASTER or not self._active():
            raise RefusedError(f"this node is not the active one (its role is {role})")
        self._send_table(Conntrackd(self.config.control))
        _wait(self._in_step, _TABLE_S, "the peer has yet to be told of all of IPVS's connections")

    def _in_step(self) -> bool:
        """Whether it has, as the agents know, what IPVS has here; without IPVS it has."""
        return (statefile.read(self.config.state).get("ipvs") or {}).get("in_step") is not False

    def _send_table(self, conntrackd: Conntrackd) -> None:
        heard = conntrackd.stats().received
        _wait(lambda: conntrackd.stats().received > heard, _PEER_HEARD_S, "no word from the peer")
        conntrackd.ask(Request.BULK)
        _wait(
            lambda: conntrackd.unacknowledged() <= _WINDOW,
            *(_TABLE_S, "the peer does not acknowledge our connections"),
        )

    def perform(self) -> Result:
        """Give the role away. RefusedError when the role came back: the peer did not take it."""
        begin = time.monotonic()
        with self._asking():
            _wait(lambda: not self._active(), _RELEASE_S, "keepalived keeps the role")
            released = time.monotonic()
        if self._returns():
            raise RefusedError("the peer did not take over; this node is active again")
        taken = self._taken()
        gap = None if taken is None else (taken - released) * 1000
        return Result((released - begin) * 1000, gap)

    def _taken(self) -> float | None:
        """When, by our clock, the peer was active; None when its agent does not say so."""
        said: list[dict[str, float]] = []

        def heard() -> bool:
            peer = statefile.read(self.config.state).get("peer")
            said[:] = [peer] if peer and peer["role"] == Role.MASTER else []
            return bool(said)

        with suppress(RefusedError):
            _wait(heard, _WATCH_S, "")
        return said[0]["heard"] - said[0]["role_s"] if said else None

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """The file says 1 inside, and 0 after it in any case.

        It goes back to 0 as soon as we are released: this node is then a standby again, whose own
        wait of three advertisements is longer than the peer's skew time.
        """
        try:
            self.config.handover.write_text("1\n")
            yield
        finally:
            self.config.handover.write_text("0\n")

    def _returns(self) -> bool:
        try:
            _wait(self._active, _WATCH_S, "")
        except RefusedError:
            return False
        return True

    def _active(self) -> bool:
        return netlink.holds(self.config.virtual)


def _wait(condition: Callable[[], bool], limit: float, otherwise: str) -> None:
    """Poll until the condition holds; RefusedError after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise RefusedError(f"{otherwise} (waited {limit:g} s)")
        time.sleep(_POLL_S)  # poll


def _stop(_signal: int, _frame: object) -> None:
    raise SystemExit(1)


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0 when the peer is active now, 1 when not, with the reason."""
    parser = argparse.ArgumentParser(prog="appliance-handover", description=_HELP)
    parser.add_argument("--force", action="store_true", help="do not check that the peer is ready")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--config", type=Path, default=configuration.PATH, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _stop)
    try:
        handover = Handover(configuration.parse(arguments.config.read_text()))
        if not arguments.force:
            handover.check()
        result = handover.perform()
    except (RefusedError, NoAnswerError, OSError) as error:
        if arguments.json:
            print(json.dumps({"handed_over": False, "reason": str(error)}))
        else:
            print(f"no handover: {error}", file=sys.stderr)
        return 1
    told = json.dumps({"handed_over": True, **asdict(result)})
    print(told if arguments.json else result.words())
    return 0


if __name__ == "__main__":
    sys.exit(main())
