"""The echo service (RFC 862) of a lab host, TCP and UDP, both IP versions; runs inside the
machine.

`echo [tcp/PORT|udp/PORT ...]`, by default port 7 of both.
"""

from __future__ import annotations

import selectors
import socket
import sys

LARGEST = 65536
DEFAULT = ("tcp/7", "udp/7")
ROOM = socket.CMSG_SPACE(20)  # struct in6_pktinfo (RFC 3542): an address and a card's number
ANY_CARD = bytes(4)


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

    def __init__(self, *ports: str) -> None:
        self.selector = selectors.DefaultSelector()
        for port in ports:
            protocol, _, number = port.partition("/")
            if protocol == "udp":
                end = listen(socket.SOCK_DGRAM, int(number))
                end.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
                self.selector.register(end, selectors.EVENT_READ, self.answer)
            else:
                end = listen(socket.SOCK_STREAM, int(number))
                end.listen(64)
                self.selector.register(end, selectors.EVENT_READ, self.accept)

    def serve(self) -> None:
        """For ever."""
        while True:
            for key, _ in self.selector.select():
                key.data(key.fileobj)

    def answer(self, end: socket.socket) -> None:
        """One datagram, from the address that was asked: a virtual one is not the host's first.

        A refusal of an earlier answer is nobody's error.
        """
        try:
            data, where, _, peer = end.recvmsg(LARGEST, ROOM)
            asked = [(level, kind, at[:16] + ANY_CARD) for level, kind, at in where]
            end.sendmsg([data], asked, 0, peer)
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
    Echo(*(sys.argv[1:] or DEFAULT)).serve()
