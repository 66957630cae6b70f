"""Whether the peer's adverts arrive here: a raw socket gets its own copy, beside keepalived."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass, field

from appliance.node.config import Address

_VRRP = 112  # IP protocol number, RFC 9568 section 5.1.1.4
_LARGEST = 2048


@dataclass(slots=True)
class Adverts:
    """`peers` are the addresses that the peer's virtual routers speak from."""

    peers: frozenset[Address]
    heard: dict[str, float] = field(default_factory=dict)  # by address, as the kernel spells it
    _sockets: list[socket.socket] = field(init=False)

    def __post_init__(self) -> None:
        families = {4: socket.AF_INET, 6: socket.AF_INET6}
        versions = {each.version for each in self.peers}
        self._sockets = [_socket(families[version]) for version in sorted(versions)]

    def listen(self, now: float) -> None:
        """Note whom the adverts that have come are from."""
        for each in self._sockets:
            with suppress(OSError):  # nothing more
                while True:
                    _, sender = each.recvfrom(_LARGEST)
                    self.heard[sender[0].partition("%")[0]] = now

    def all_since(self, when: float) -> bool:
        """Whether each of the peer's virtual routers was heard since then."""
        return all(self.heard.get(str(each), float("-inf")) >= when for each in self.peers)


def _socket(family: socket.AddressFamily) -> socket.socket:
    end = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _VRRP)
    end.setblocking(False)
    return end
