"""Traffic between the lab's hosts that tells what an interruption did to it.

Each function starts one and returns when the connection stands; `stop` gives the figures. The work
is done inside the peers machine by `appliance.lab.traffic`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Self

from appliance.lab import services
from appliance.lab.control import Program, Shell
from appliance.lab.errors import HarnessError, LabAssertion

ANSWER_WITHIN = 60.0  # seconds: more than the traffic itself waits for its last answers


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


class Flow:
    """Traffic under way. Leaving its `with` block ends it."""

    def __init__(self, program: Program, words: str) -> None:
        self.words = words
        self._program = program
        self._last: Report | None = None
        first = self._read()
        if "ready" not in first:
            raise LabAssertion(f"{words}: {first['note']}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._program.__exit__()

    def peek(self) -> Report:
        """The figures so far; it goes on."""
        self._program.write(b"peek\n")
        return self._report()

    def stop(self) -> Report:
        """End it, wait for the answers still under way, and give the figures."""
        if self._last is None:
            self._program.write(b"stop\n")
            self._last = self._report()
        return self._last

    def _report(self) -> Report:
        fields = self._read()
        fields.pop("last", None)
        return Report(**fields)

    def _read(self) -> dict[str, Any]:
        line = self._program.line(ANSWER_WITHIN)
        if line is None:
            raise HarnessError(f"the program of {self.words} ended without a report")
        message: dict[str, Any] = json.loads(line)
        return message


def ssh(host: Shell, to: object, *, interval: float | None = 0.1, port: int = 22) -> Flow:
    """Someone types over SSH, a character each `interval` seconds; None is an idle session."""
    return _start(host, "ssh", to, port, interval=interval, size=1, key=services.KEY)


def tcp(host: Shell, to: object, *, interval: float | None = 0.05, port: int = 7) -> Flow:
    """A TCP connection to the echo service, 100 bytes each `interval` seconds."""
    return _start(host, "tcp", to, port, interval=interval, size=100)


def udp(host: Shell, to: object, *, interval: float = 0.005, port: int = 7) -> Flow:
    """A probe each `interval` seconds to the UDP echo service: the measure of a gap."""
    return _start(host, "udp", to, port, interval=interval)


def ping(host: Shell, to: object, *, interval: float = 0.02) -> Flow:
    """ICMP echo requests each `interval` seconds."""
    return _start(host, "ping", to, 0, interval=interval)


def http(host: Shell, to: object, *, interval: float = 0.1, port: int = 80) -> Flow:
    """A new connection and one request each `interval` seconds."""
    return _start(host, "http", to, port, interval=interval)


def ftp(host: Shell, to: object, *, passive: bool = True, rate: float = 1e6) -> Flow:
    """One file again and again over one control connection, at `rate` bytes a second.

    Every server of the lab has the same file, and the client is in the same machine.
    """
    digest = host.succeed(["cat", services.SHARED_DIGEST]).split()[0]
    file = {"file": services.SHARED_FILE, "sha256": digest}
    return _start(host, "ftp", to, 21, passive=passive, rate=rate, **file)


def _start(host: Shell, kind: str, to: object, port: int, **options: Any) -> Flow:
    data = json.dumps({"to": str(to), "port": port, "source": None, **options})
    program = host.spawn(services.program("traffic", kind, data))
    return Flow(program, f"{kind} from {host.name} to {to}")
