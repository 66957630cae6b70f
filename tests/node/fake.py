"""A conntrackd that does as it is told, on a real control socket."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from appliance.node.conntrackd import Request

STATS = """cache internal:
current active connections:\t{internal:12d}
connections created:\t\t           1\tfailed:\t           0

cache external:
current active connections:\t{external:12d}
connections created:\t\t           1\tfailed:\t           0

UDP traffic (active device=sync):
                  64 Bytes sent                   64 Bytes recv
                   4 Pckts sent          {received:11d} Pckts recv

"""


@dataclass
class FakeConntrackd:
    """Notes the requests in `asked`; `on` is called for each before it is answered."""

    path: Path
    internal: int = 0
    external: int = 0
    received: int = 1
    hang: bool = False
    asked: list[Request] = field(default_factory=list)
    on: Callable[[Request], None] = lambda _: None
    _held: list[socket.socket] = field(default_factory=list)

    def __enter__(self) -> FakeConntrackd:
        self._listener = socket.socket(socket.AF_UNIX)
        self.path.unlink(missing_ok=True)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for each in [self._listener, *self._held]:
            each.close()
        self.path.unlink()

    def commands(self) -> list[Request]:
        """What was asked, without the questions."""
        questions = (Request.STATS, Request.STATS_QUEUE)
        return [request for request in self.asked if request not in questions]

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            if self.hang:
                self._held.append(link)
                continue
            with link:
                request = Request(struct.unpack("=i", link.recv(4))[0])
                self.asked.append(request)
                self.on(request)
                if request is Request.STATS:
                    link.sendall(STATS.format(**vars(self)).encode())
                if request is Request.STATS_QUEUE:
                    link.sendall(b"queue rsqueue:\ncurrent elements:            0\n")
