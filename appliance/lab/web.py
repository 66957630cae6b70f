"""HTTP with a connection for each request, and with one for all; runs inside a lab host, standard
library only.
"""

from __future__ import annotations

import http.client
import os
import re
from typing import Any

from appliance.lab.meter import Meter, Stop
from appliance.lab.paced import DRAIN, Tcp

LENGTH = re.compile(rb"^content-length: *([0-9]+)\r$", re.IGNORECASE | re.MULTILINE)
END = b"\r\n\r\n"


class Visits:
    """A new connection and one request at each interval."""

    def __init__(
        self, meter: Meter, to: str, port: int, interval: float, source: str | None = None
    ) -> None:
        self.meter = meter
        self.target = (to, port)
        self.interval = interval
        self.source = (source, 0) if source else None

    def request(self, seconds: float) -> bool:
        """Ask once; whether an answer came."""
        client = http.client.HTTPConnection(
            *self.target, timeout=seconds, source_address=self.source
        )
        try:
            client.request("GET", "/")
            answer = client.getresponse()
            self.meter.whole &= answer.status == 200 and answer.read() == b"lab\n"
        except (OSError, http.client.HTTPException) as error:
            self.meter.note = f"{type(error).__name__}: {error}"
            return False
        finally:
            client.close()
        return True

    def open(self) -> None:
        """There is nothing to stand: each request stands for itself."""

    def carry(self, stop: Stop) -> None:
        """Until the stop: one that fails is lost, and the next is tried."""
        while not stop.wait(self.interval):
            self.meter.sent += 1
            if self.request(DRAIN):
                self.meter.answer()

    def finish(self) -> None:
        """Alive means that a request is still answered; this one does not count."""
        self.meter.quiet()
        self.meter.alive = self.request(DRAIN)


class Requests(Tcp):
    """One connection, a request at each interval: whoever answered the first answers all.

    What is awaited is a byte for each request without an answer.
    """

    def __init__(self, meter: Meter, to: str, port: int, interval: float, **more: Any) -> None:
        super().__init__(meter, to, port, interval=interval, size=1, **more)
        host = f"[{to}]" if ":" in to else to
        self.request = f"GET /who HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        self.partial = b""
        self.name: bytes | None = None

    def send(self) -> None:
        """Ask once more."""
        self.awaited += b"?"
        self.meter.sent += 1
        try:
            self.write(self.request)
        except OSError as error:
            self.meter.died(f"cannot send: {error}")

    def receive(self) -> None:
        """Take what came, and compare each whole answer."""
        try:
            data = os.read(self.descriptor(), 65536)
        except BlockingIOError:
            return
        except OSError as error:
            self.meter.died(f"cannot receive: {error}")
            return
        if not data:
            self.meter.died("the other side closed the connection")
        self.partial += data
        while answer := self.next():
            self.take(*answer)

    def next(self) -> tuple[bytes, bytes] | None:
        """The next whole answer, as head and body; None while it is not there."""
        head, end, rest = self.partial.partition(END)
        if not end:
            return None
        length = LENGTH.search(head + b"\r\n")
        size = int(length[1]) if length else 0
        if len(rest) < size:
            return None
        self.partial = rest[size:]
        return head, rest[:size]

    def take(self, head: bytes, body: bytes) -> None:
        """An answer: its status, and the name of who gave it."""
        self.name = self.name or body
        if not head.startswith(b"HTTP/1.1 200 ") or body != self.name or not self.awaited:
            status, said = head.split(b"\r\n")[0], body[:40]
            self.meter.damaged(f"answered {status!r} {said!r} after {self.name!r}")
            self.meter.died("the stream is broken")
        del self.awaited[:1]
        self.meter.answer()
