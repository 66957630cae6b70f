"""Traffic between the lab's hosts that tells what an interruption did to it.

Each function starts one and returns when the connection stands; `stop` gives the figures. The work
is done inside the peers machine by `appliance.lab.traffic`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from appliance.lab import daemons, orders, services
from appliance.lab.control import Shell
from appliance.lab.errors import HarnessError, LabAssertion
from appliance.lab.orders import Order

ANSWER_WITHIN = 180.0  # seconds: more than the traffic itself takes to stand, or to end


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the traffic.

    `longest_stall`: seconds in which no answer came, from its standing to `stop`; `stall_at`:
    seconds after its standing at which that began. `whole`: every byte came back as it was sent (or
    the file's checksum was right). `alive`: it still carried at the end. `sent` and `received`
    count
    packets, bytes (streams, files) or requests.
    """

    sent: int
    received: int
    longest_stall: float
    stall_at: float
    seconds: float
    whole: bool
    alive: bool
    note: str

    @property
    def survived(self) -> bool:
        """Alive, and nothing of it damaged."""
        return self.whole and self.alive

    @property
    def lost(self) -> int:
        """What was sent and not answered."""
        return self.sent - self.received


class Carrier:
    """A program in a host that carries flows, each under a name. Leaving its `with` block ends
    them all.

    It is told things by `say`, and answers each with `hear`, so that several may work at once.
    """

    def __init__(self, host: Shell, flows: Mapping[str, Order]) -> None:
        self.words = f"the traffic of {host.name}"
        data = json.dumps({name: dict(order) for name, order in flows.items()})
        self._program = host.spawn(daemons.program("traffic", data))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._program.__exit__()

    def wait_ready(self) -> dict[str, Report]:
        """Wait until every flow stands; those that do not, each with its reason."""
        first = self._read()
        if "ready" in first:
            return {}
        return {name: report for name, report in _reports(first).items() if not report.alive}

    def say(self, word: str) -> None:
        """`peek` or `stop`."""
        self._program.write(word.encode() + b"\n")

    def hear(self) -> dict[str, Report]:
        """The reports that answer a word."""
        return _reports(self._read())

    def _read(self) -> dict[str, Any]:
        line = self._program.line(ANSWER_WITHIN)
        if line is None:
            raise HarnessError(f"{self.words} ended without a report")
        message: dict[str, Any] = json.loads(line)
        return message


def _reports(message: dict[str, Any]) -> dict[str, Report]:
    return {name: Report(**fields) for name, fields in message.items()}


class Flow:
    """Traffic under way. Leaving its `with` block ends it."""

    def __init__(self, host: Shell, order: Order) -> None:
        self.words = f"{order['kind']} from {host.name} to {order['to']}"
        self._carrier = Carrier(host, {self.words: order})
        self._last: Report | None = None
        for words, report in self._carrier.wait_ready().items():
            raise LabAssertion(f"{words}: {report.note}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._carrier.__exit__()

    def peek(self) -> Report:
        """The figures so far; it goes on."""
        return self._ask("peek")

    def stop(self) -> Report:
        """End it, wait for the answers still under way, and give the figures."""
        if self._last is None:
            self._last = self._ask("stop")
        return self._last

    def _ask(self, word: str) -> Report:
        self._carrier.say(word)
        return self._carrier.hear()[self.words]


def ssh(
    host: Shell,
    to: object,
    *,
    interval: float | None = 0.1,
    port: int = 22,
    source: object = None,
) -> Flow:
    """Someone types over SSH, a character each `interval` seconds; None is an idle session.

    `source`, here as below, is the host's address to connect from, where it has several.
    """
    return Flow(host, orders.ssh(to, interval=interval, port=port, source=source))


def tcp(
    host: Shell,
    to: object,
    *,
    interval: float | None = 0.05,
    port: int = 7,
    source: object = None,
) -> Flow:
    """A TCP connection to the echo service, 100 bytes each `interval` seconds."""
    return Flow(host, orders.tcp(to, interval=interval, port=port, source=source))


def udp(
    host: Shell, to: object, *, interval: float = 0.005, port: int = 7, source: object = None
) -> Flow:
    """A probe each `interval` seconds to the UDP echo service: the measure of a gap."""
    return Flow(host, orders.udp(to, interval=interval, port=port, source=source))


def ping(host: Shell, to: object, *, interval: float = 0.02, source: object = None) -> Flow:
    """ICMP echo requests each `interval` seconds."""
    return Flow(host, orders.ping(to, interval=interval, source=source))


def http(
    host: Shell,
    to: object,
    *,
    interval: float = 0.1,
    port: int = 80,
    kept: bool = False,
    source: object = None,
) -> Flow:
    """A request each `interval` seconds, over a new connection each; with `kept` all over one, and
    answered by one host.
    """
    order = orders.http(to, interval=interval, port=port, kept=kept, source=source)
    return Flow(host, order)


def ftp(
    host: Shell, to: object, *, passive: bool = True, rate: float = 1e6, source: object = None
) -> Flow:
    """One file again and again over one control connection, at `rate` bytes a second.

    Every server of the lab has the same file, and the client is in the same machine. The commands
    are PASV or PORT with IPv4 and EPSV or EPRT with IPv6.
    """
    modes = ("EPSV", "EPRT") if ":" in str(to) else ("PASV", "PORT")
    how = {"mode": modes[0 if passive else 1], "rate": rate, **orders.bound(source)}
    file = orders.shared(host)[services.SHARED_FILE]
    return Flow(host, orders.ftp("ftp download", to, **how, **file))
