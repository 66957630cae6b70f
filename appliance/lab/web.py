"""HTTP with a connection for each request, and with one for all; runs inside a lab host, standard
library only.
"""

from __future__ import annotations

import http.client
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from appliance.lab.meter import Meter, Stop
from appliance.lab.paced import DRAIN
from appliance.lab.questions import Questions

LENGTH = re.compile(rb"^content-length: *([0-9]+)\r$", re.IGNORECASE | re.MULTILINE)
END = b"\r\n\r\n"
AT_ONCE = 100  # requests without an answer yet; more than an interruption gathers


class Visits:
    """A new connection and one request at each interval, whatever became of those before.

    So the stall tells how long nobody new was served: one that begins in an interruption waits for
    TCP's first repetition (1 s, RFC 6298), and those after it do not wait for that one.
    """

    def __init__(
        self, meter: Meter, to: str, port: int, interval: float, source: str | None = None
    ) -> None:
        self.meter = meter
        self.target = (to, port)
        self.interval = interval
        self.source = (source, 0) if source else None
        self.lock = threading.Lock()

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
        """Until the stop, and the answers that are due then; one that fails is lost."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            while not stop.wait(self.interval):
                self.meter.sent += 1
                pool.submit(self.visit)

    def visit(self) -> None:
        """One of them."""
        if self.request(DRAIN):
            with self.lock:
                self.meter.answer()

    def finish(self) -> None:
        """Alive means that a request is still answered; this one does not count."""
        self.meter.quiet()
        self.meter.alive = self.request(DRAIN)


class Requests(Questions):
    """One connection for all requests: whoever answered the first answers all."""

    def __init__(self, meter: Meter, to: str, port: int, interval: float, **more: Any) -> None:
        super().__init__(meter, to, port, interval=interval, **more)
        host = f"[{to}]" if ":" in to else to
        self.question = f"GET /who HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        self.name: bytes | None = None

    def next(self) -> bytes | None:
        """Head and body."""
        end = self.partial.find(END)
        if end < 0:
            return None
        body = end + len(END)
        length = LENGTH.search(self.partial, 0, body)
        return self.cut(body + (int(length[1]) if length else 0))

    def wrong(self, answer: bytes) -> str:
        """Another status than 200, or another name than the first."""
        head, _, body = answer.partition(END)
        self.name = self.name or body
        if head.startswith(b"HTTP/1.1 200 ") and body == self.name:
            return ""
        return f"answered {head.splitlines()[0]!r} {body[:40]!r} after {self.name!r}"
