"""Traffic between client and server that knows when it stalled, and whether its bytes are whole."""

from __future__ import annotations

import socket
import struct
import threading
import time
from dataclasses import dataclass, field

from tests.node.netns import Lab

_NUMBER = struct.Struct("!Q")


@dataclass
class Flow:
    """A counter sent each `every` seconds and echoed; `stalls` are seconds between two echoes."""

    lab: Lab
    kind: socket.SocketKind
    port: int
    every: float
    echoed: int = 0
    last: float = field(default_factory=time.monotonic)
    stall: float = 0.0
    broken: str | None = None
    _done: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Flow:
        listener = self.lab.socket("server", self.kind)
        listener.bind(("192.168.1.3", self.port))
        self._client = self.lab.socket("client", self.kind)
        if self.kind is socket.SOCK_STREAM:
            listener.listen()
            self._client.settimeout(5)
            self._client.connect(("192.168.1.3", self.port))
            served, _ = listener.accept()
            listener.close()
        else:
            served = listener
            self._client.connect(("192.168.1.3", self.port))
        self._served = served
        for each in (self._client, served):
            each.settimeout(0.2)
        for work in (self._echo, self._send, self._receive):
            self._threads.append(threading.Thread(target=work, daemon=True))
            self._threads[-1].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()
        self._client.close()
        self._served.close()

    def mark(self) -> None:
        """Measure the longest stall from here on."""
        self.stall = 0.0

    def alive(self, within: float) -> bool:
        """Whether an echo comes within so many seconds."""
        before, deadline = self.echoed, time.monotonic() + within
        while self.echoed == before and time.monotonic() < deadline and not self.broken:
            time.sleep(0.005)  # poll
        return self.echoed > before

    def _echo(self) -> None:
        while not self._done.is_set():
            try:
                data, sender = self._served.recvfrom(65536)
                if self.kind is socket.SOCK_STREAM:
                    self._served.sendall(data)
                else:
                    self._served.sendto(data, sender)
            except TimeoutError:
                continue
            except OSError as error:
                self.broken = self.broken or f"server: {error}"
                return

    def _send(self) -> None:
        number = 0
        while not self._done.wait(self.every):
            number += 1
            try:
                self._client.sendall(_NUMBER.pack(number))
            except TimeoutError:
                continue
            except OSError as error:
                if self.kind is socket.SOCK_STREAM:
                    self.broken = self.broken or f"client: {error}"
                    return

    def _receive(self) -> None:
        rest, expected = b"", 0
        while not self._done.is_set():
            try:
                rest += self._client.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                continue
            now = time.monotonic()
            self.stall, self.last = max(self.stall, now - self.last), now
            while len(rest) >= _NUMBER.size:
                (number,) = _NUMBER.unpack_from(rest)
                rest = rest[_NUMBER.size :]
                expected += 1
                self.echoed += 1
                if self.kind is socket.SOCK_STREAM and number != expected:
                    self.broken = f"{number} came in the place of {expected}"
                    return


def tcp(lab: Lab, port: int = 7000) -> Flow:
    return Flow(lab, socket.SOCK_STREAM, port, every=0.01)


def udp(lab: Lab) -> Flow:
    return Flow(lab, socket.SOCK_DGRAM, 7001, every=0.005)
