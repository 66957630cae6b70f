"""The echo service (RFC 862) of a lab host, TCP and UDP, both IP versions; runs inside the
machine.
"""

from __future__ import annotations

import selectors
import socket
import sys

LARGEST = 65536


def listen(kind: socket.SocketKind, port: int) -> socket.socket:
    """A socket that takes both IP versions."""
    end = socket.socket(socket.AF_INET6, kind)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    end.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    end.bind(("::", port))
    end.setblocking(False)
    return end


class Echo:
    """Answers whatever comes with itself."""

    def __init__(self, port: int) -> None:
        self.datagrams = listen(socket.SOCK_DGRAM, port)
        self.streams = listen(socket.SOCK_STREAM, port)
        self.streams.listen(64)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.datagrams, selectors.EVENT_READ, self.answer)
        self.selector.register(self.streams, selectors.EVENT_READ, self.accept)

    def serve(self) -> None:
        """For ever."""
        while True:
            for key, _ in self.selector.select():
                key.data(key.fileobj)

    def answer(self, end: socket.socket) -> None:
        """One datagram. A refusal of an earlier answer is nobody's error."""
        try:
            data, peer = end.recvfrom(LARGEST)
            end.sendto(data, peer)
        except OSError:
            return

    def accept(self, end: socket.socket) -> None:
        """A new connection. Its writes may block: a lab's client reads what it asked for."""
        connection, _ = end.accept()
        self.selector.register(connection, selectors.EVENT_READ, self.repeat)

    def repeat(self, connection: socket.socket) -> None:
        """What came on a connection; its end ends it here too."""
        try:
            data = connection.recv(LARGEST)
            connection.sendall(data)
        except OSError:
            data = b""
        if not data:
            self.selector.unregister(connection)
            connection.close()


if __name__ == "__main__":
    Echo(int(sys.argv[1]) if len(sys.argv) > 1 else 7).serve()
