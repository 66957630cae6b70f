"""Stands between clients and a server on loopback, and breaks what passes."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable

Harm = Callable[[bytes], bytes]


class Relay:
    """Passes bytes on to `target` on 127.0.0.1, from a port (0 is a free one) of an address.

    `harm` may change what the server says, `harm_to` what it is told. While `flowing` is clear
    nothing passes, and no more than about `buffer` bytes of a client, or for it, are held (0: as
    the kernel thinks fit).
    """

    def __init__(
        self, target: int, address: str = "127.0.0.1", port: int = 0, buffer: int = 0
    ) -> None:
        self.target = target
        self.harm: Harm = bytes
        self.harm_to: Harm = bytes
        self.flowing = threading.Event()
        self.flowing.set()
        self.stream = socket.create_server((address, port))
        for size in (socket.SO_RCVBUF, socket.SO_SNDBUF) if buffer else ():
            self.stream.setsockopt(socket.SOL_SOCKET, size, buffer)
        self.port = self.stream.getsockname()[1]
        self.ends: list[socket.socket] = []
        threading.Thread(target=self.relay_streams, daemon=True).start()

    def relay_streams(self) -> None:
        while True:
            try:
                near, _ = self.stream.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return
            self.ends += [near, far]
            for way in (near, far, "harm_to"), (far, near, "harm"):
                threading.Thread(target=self.copy, args=way, daemon=True).start()

    def copy(self, source: socket.socket, to: socket.socket, harm: str) -> None:
        try:
            while data := source.recv(4096):
                self.flowing.wait()
                to.sendall(getattr(self, harm)(data))
            to.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def refuse(self) -> None:
        """Take no more connections. A mere close would leave the port to whoever waits for one."""
        with contextlib.suppress(OSError):
            self.stream.shutdown(socket.SHUT_RDWR)
        self.stream.close()

    def kill(self) -> None:
        """End every connection."""
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.flowing.set()
        self.refuse()
        self.kill()
        for end in self.ends:
            end.close()


class EchoRelay(Relay):
    """Passes datagrams as well."""

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagram.bind(("127.0.0.1", self.port))
        self.closing, self.closed = socket.socketpair()
        threading.Thread(target=self.relay_datagrams, daemon=True).start()

    def relay_datagrams(self) -> None:
        far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        far.connect(("127.0.0.1", self.target))
        client = None
        while True:
            ready = select.select([self.datagram, far, self.closed], [], [])[0]
            if self.closed in ready:
                far.close()
                self.datagram.close()
                return
            for end in ready:
                data, peer = end.recvfrom(2048)
                if end is self.datagram:
                    client = peer
                    far.send(data) if self.flowing.is_set() else None
                elif client:
                    self.datagram.sendto(data, client)

    def close(self) -> None:
        super().close()
        self.closing.close()
