"""FTP outlives a takeover: what the connection-tracking helpers know, and conntrackd does not tell.

Run as `python3 -m appliance.node.expectations` on both nodes, supervised by systemd. See "FTP" in
docs/state-agent.md.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from appliance.node import config as configuration
from appliance.node import ctnetlink, kernel, netlink, statefile
from appliance.node.alarms import Alarms
from appliance.node.announce import Announcements
from appliance.node.config import EXPECTATIONS_PORT, Config, Link
from appliance.node.ctnetlink import Expectation, Master
from appliance.node.exchange import Exchange, Inbox, Kind, Outbox, Record
from appliance.node.journal import log_to_journal
from appliance.node.notify import notify
from appliance.node.revival import Revival
from appliance.node.signals import COMMITTED

log = logging.getLogger("appliance.expectations")

# The kernel itself allows some thousand (nf_conntrack_expect_max).
MOST = 4096
_TICK_S = 1.0
_COMPARE_EVERY_S = 30.0  # with the kernel's table; a dump of it takes some milliseconds
_BUFFER = 4 << 20
_COMMIT_S = 5.0  # a commit of a large table takes seconds
_OWN_TIME_S = 5.0  # the kernel says that one has ended; if it did not, we forget it a little later


@dataclass(slots=True)
class Expectations:
    """All state of the process but its sockets."""

    config: Config
    active: bool
    exchange: Exchange
    touch: Callable[[list[Master]], None]
    revival: Revival = field(default_factory=lambda: Revival(kernel.create))
    announcements: Announcements = field(default_factory=lambda: Announcements(3 * MOST))
    here: dict[bytes, float] = field(default_factory=dict)  # in our kernel: keys, and their ends
    ended: list[tuple[float, Record]] = field(default_factory=list)  # in the last seconds, and when
    announced: int = 0
    takeover: dict[str, Any] | None = None
    alarms: Alarms = field(default_factory=Alarms)
    sweep: bool = False  # whether shifted sequences may have gone unannounced
    compare_at: float = 0.0

    def appeared(self, expectation: Expectation, seconds: float, now: float) -> None:
        """The kernel has a new one. One that is known was created by us, with less time to live."""
        if self.config.announce:
            self.announcements.add(expectation.master, now)
        if expectation.key not in self.here:
            self.know(expectation, now + seconds, now)

    def know(self, expectation: Expectation, ends: float, now: float) -> None:
        """It is here until then, and the peer should know."""
        if len(self.here) >= MOST:
            self.alarms.tell(
                "many", f"more than {MOST} expectations: the others are not handed over"
            )
            return
        self.here[expectation.key] = ends
        if self.config.hand_over:
            self.exchange.outbox.here(expectation.key, expectation.pack(), ends, now)

    def gone(self, key: bytes, now: float) -> None:
        """Used, replaced, or ended."""
        if self.here.pop(key, None) is not None:
            record = self.exchange.outbox.gone(key, now)
            self.ended += [(now, record)] if record else []

    def heard(self, records: list[Record], now: float) -> None:
        """News of the peer. What comes after we became active is late, and wanted at once."""
        for each in records:
            if each.kind is Kind.TAKEN:
                self.released()
                self.exchange.outbox.surrender()
        if self.active:
            self.revival.want([each for each in records if each.kind is Kind.HERE], now)

    def released(self) -> None:
        """This node is not active, or no longer."""
        self.active = False
        self.exchange.outbox.said.discard(Kind.TAKEN)
        self.revival.forget()

    def committed(self, now: float) -> None:
        """This node is active, and has its peer's connections.

        conntrackd's commit makes connections that are here already anew, as after a short absence
        from the role: their expectations end with the old ones.
        """
        self.active = True
        late = {each.name: each for when, each in self.ended if now - when < _COMMIT_S}
        # The oldest first: of a connection's expectations the kernel keeps the last (max_expected).
        self.exchange.inbox.held = late | self.exchange.inbox.held
        held = self.exchange.inbox.held
        self.exchange.inbox.expire(now)
        self.exchange.outbox.say(Kind.TAKEN, now)
        self.revival.created, self.revival.failures = 0, {}
        self.takeover = {"wall": time.time(), "held": len(held), "ms": None}
        self.revival.want(list(held.values()), now)
        self.revive(now)

    def revive(self, now: float) -> None:
        """Create what is wanted; it is ours from then on."""
        begin = time.monotonic()
        for wish in self.revival.run(self.exchange.inbox.held, now):
            self.know(wish.expectation, wish.ends, now)
        if self.takeover and self.takeover["ms"] is None:
            self.takeover["ms"] = round((time.monotonic() - begin) * 1000, 2)
            log.info(
                "created %d of %d expectations in %.1f ms, failures: %s",
                *(self.revival.created, self.takeover["held"], self.takeover["ms"]),
                self.revival.failures or "none",
            )

    def announce(self, now: float) -> None:
        """Touch the connections that are due."""
        due = self.announcements.due(now)
        self.touch(due)
        self.announced += len(due)

    def compare(self, now: float) -> None:
        """With the kernel's table: events may have been lost, or lives made longer without one."""
        self.compare_at = now + _COMPARE_EVERY_S
        if not self.active:
            return
        found = {each.key: (each, now + left) for each, left in kernel.expectations()}
        for key in self.here.keys() - found.keys():
            self.gone(key, now)
        for key, (each, ends) in found.items():
            if abs(self.here.get(key, 0.0) - ends) > _OWN_TIME_S:
                self.gone(key, now)
                self.know(each, ends, now)
        if self.config.hand_over and Kind.WHOLE not in self.exchange.outbox.said:
            self.exchange.outbox.say(Kind.WHOLE, now)

    def announce_all(self) -> None:
        """Touch all connections with shifted sequences: some may have changed unseen."""
        self.sweep = self.announcements.overflowed = False
        if self.config.announce and self.active:
            masters = kernel.adjusted()
            self.touch(masters)
            self.announced += len(masters)

    def tidy(self, now: float) -> None:
        """Once a second."""
        if self.active and not netlink.holds(self.config.virtual):
            self.released()
        self.exchange.inbox.expire(now)
        self.ended = [each for each in self.ended if now - each[0] < _COMMIT_S]
        for key in [key for key, ends in self.here.items() if ends + _OWN_TIME_S < now]:
            self.gone(key, now)
        if self.sweep or self.announcements.overflowed:
            self.announce_all()
        if now >= self.compare_at:
            self.compare(now)
        if self.exchange.inbox.refused:
            self.exchange.inbox.refused = 0
            self.alarms.tell("many", f"the peer has more than {MOST} expectations")
        if len(self.here) < MOST // 2:
            self.alarms.tell("many", None)

    def next(self, now: float) -> float:
        """When something is due by itself."""
        due = min(self.announcements.next(), self.revival.next())
        return min(due, self.exchange.next(now)) if self.config.hand_over else due

    def state(self, now: float) -> dict[str, Any]:
        """For operators."""
        outbox = self.exchange.outbox
        took = self.takeover and self.takeover | {
            "created": self.revival.created,
            "failures": self.revival.failures,
        }
        return {
            "active": self.active,
            "peer": self.config.hand_over and not self.exchange.silent(now),
            "here": len(self.here),
            "held": len(self.exchange.inbox.held),
            "handed_over": outbox.live,
            "unacknowledged": outbox.waiting,
            "acknowledged_ms": _spread(outbox.times),
            "takeover": took,
            "announced": self.announced,
            "alarms": dict(self.alarms),
        }


@dataclass(slots=True)
class Process:
    """The sockets, and the loop."""

    expectations: Expectations
    events: socket.socket
    orders: socket.socket
    links: dict[int, tuple[socket.socket, Link]]
    _poll: select.poll = field(default_factory=select.poll)
    _tick: float = 0.0
    _written: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for each in (self.events, self.orders, *(link for link, _ in self.links.values())):
            self._poll.register(each, select.POLLIN)

    def turn(self) -> None:
        """Wait for news, at most until something is due, and deal with all of it."""
        now = time.monotonic()
        wait = max(0.0, min(self.expectations.next(now), self._tick) - now)
        for fd, _ in self._poll.poll(wait * 1000):
            if fd == self.orders.fileno():
                self._obey()
            elif fd == self.events.fileno():
                self._watch()
            else:
                self._hear(*self.links[fd])
        self._act(time.monotonic())

    def _act(self, now: float) -> None:
        if self.expectations.revival.next() <= now:
            self.expectations.revive(now)
        if self.expectations.announcements.next() <= now:
            self.expectations.announce(now)
        if now >= self._tick:
            self._tick = now + _TICK_S
            self.expectations.tidy(now)
            self._tell(now)
        if self.links:
            self._send(self.expectations.exchange.send(now))

    def _obey(self) -> None:
        for text in kernel.waiting(self.orders):
            if text == COMMITTED:
                self.expectations.committed(time.monotonic())

    def _watch(self) -> None:
        """The kernel's events. When it had to drop some, its tables have to tell."""
        now = time.monotonic()
        try:
            for data in kernel.waiting(self.events):
                for kind, payload in netlink.messages(data):
                    self._event(kind, payload, now)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            log.warning("events were lost: reading the tables")
            kernel.discard_events(self.events)
            self.expectations.sweep = True
            self.expectations.compare_at = self._tick = now

    def _event(self, kind: int, payload: bytes, now: float) -> None:
        with suppress(ValueError):
            expectation, seconds = ctnetlink.unpack(payload)
            if kind == ctnetlink.Kind.NEW_EXPECTATION:
                self.expectations.appeared(expectation, seconds, now)
            elif kind == ctnetlink.Kind.DELETE_EXPECTATION:
                self.expectations.gone(expectation.key, now)

    def _hear(self, link: socket.socket, ends: Link) -> None:
        """Only the peer's own address and port count; another version is no peer."""
        now = time.monotonic()
        for _ in range(kernel.AT_ONCE):
            try:
                data, sender = link.recvfrom(1 << 16)
            except OSError:  # empty; or an ICMP error, which says that the peer is not there
                return
            if sender[:2] != (str(ends.peer), EXPECTATIONS_PORT):
                continue
            with suppress(ValueError):
                new, answers = self.expectations.exchange.receive(data, now)
                self._send(answers)
                self.expectations.heard(new, now)

    def _send(self, datagrams: list[bytes]) -> None:
        """On every link: whichever comes first counts."""
        for data in datagrams:
            for link, ends in self.links.values():
                with suppress(OSError):
                    link.sendto(data, (str(ends.peer), EXPECTATIONS_PORT))

    def _tell(self, now: float) -> None:
        state = self.expectations.state(now)
        if state != self._written:
            statefile.write(self.expectations.config.expectations_state, state)
            self._written = state
        alarms = ", ".join(self.expectations.alarms) or "none"
        notify("WATCHDOG=1", f"STATUS={state['here']} here, {state['held']} held, alarms: {alarms}")


def _spread(seconds: Collection[float]) -> dict[str, float] | None:
    """Of the last hundreds, from the kernel's event to the peer's word."""
    if not seconds:
        return None
    return {
        "median": round(median(seconds) * 1000, 2),
        "worst": round(max(seconds) * 1000, 2),
    }


def _orders(path: Path) -> socket.socket:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    path.unlink(missing_ok=True)
    link.bind(str(path))
    path.chmod(0o600)
    link.setblocking(False)
    return link


def _link(ends: Link) -> socket.socket:
    family = socket.AF_INET6 if ends.own.version == 6 else socket.AF_INET
    link = socket.socket(family, socket.SOCK_DGRAM)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    link.bind((str(ends.own), EXPECTATIONS_PORT))
    link.setblocking(False)
    return link


def start(config: Config, monotonic: Callable[[], float] = time.monotonic) -> Process:
    """Open the sockets, then read the tables: what happens in between is not lost."""
    touch = partial(kernel.touch, kernel.writer())
    exchange = Exchange(Outbox(MOST), Inbox(2 * MOST), monotonic())
    active = netlink.holds(config.virtual)
    links = [(_link(each), each) for each in config.links] if config.hand_over else []
    by_number = {link.fileno(): (link, each) for link, each in links}
    expectations = Expectations(config, active, exchange, touch, sweep=True)
    return Process(expectations, kernel.watch(), _orders(config.expectations), by_number)


def main(argv: list[str]) -> None:
    """Run for ever; the one optional argument is the path of agent.json."""
    log_to_journal()
    path = Path(argv[1]) if len(argv) > 1 else configuration.PATH
    process = start(configuration.parse(path.read_text()))
    process.turn()
    notify("READY=1")
    while True:
        process.turn()


if __name__ == "__main__":
    main(sys.argv)
