"""IP packets as bytes, made and read by hand: what the bench puts on a wire, and finds on one."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

TCP, UDP, ICMP, ICMPV6, VRRP = 6, 17, 1, 58, 112
FIN, SYN, RST, ACK = 1, 2, 4, 16

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Packet:
    """`ports` are source and destination; for ICMP they are type and identifier."""

    source: Address
    destination: Address
    protocol: int
    ports: tuple[int, int] = (0, 0)
    flags: int = 0
    hops: int = 64
    sequence: int = 1000

    def encode(self) -> bytes:
        body = self._body()
        if self.source.version == 4:
            size = 20 + len(body)
            ends = self.source.packed + self.destination.packed
            head = struct.pack("!BBHHHBBH", 0x45, 0, size, 1, 0, self.hops, self.protocol, 0) + ends
            return head[:10] + checksum(head) + head[12:] + body
        head = struct.pack("!IHBB", 6 << 28, len(body), self.protocol, self.hops)
        return head + self.source.packed + self.destination.packed + body

    def _body(self) -> bytes:
        if self.protocol == TCP:
            numbers = (*self.ports, self.sequence, 1 if self.flags & ACK else 0)
            body = struct.pack("!HHIIBBHHH", *numbers, 5 << 4, self.flags, 65535, 0, 0)
            return self._summed(body, 16)
        if self.protocol == UDP:
            return self._summed(struct.pack("!HHHH", *self.ports, 8, 0), 6)
        if self.protocol in (ICMP, ICMPV6):
            body = struct.pack("!BBHHH", self.ports[0], 0, 0, self.ports[1], 1)
            return self._summed(body, 2, pseudo=self.protocol == ICMPV6)
        return b"\x31" + bytes(15)

    def _summed(self, body: bytes, at: int, *, pseudo: bool = True) -> bytes:
        ends = self.source.packed + self.destination.packed
        head = ends + struct.pack("!II", len(body), self.protocol) if pseudo else b""
        return body[:at] + checksum(head + body) + body[at + 2 :]


def checksum(data: bytes) -> bytes:
    """RFC 1071, of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def decode(data: bytes) -> Packet:
    """As far as the tests look."""
    if data[0] >> 4 == 4:
        at, protocol, hops, source, destination = 20, data[9], data[8], data[12:16], data[16:20]
    else:
        at, protocol, hops, source, destination = 40, data[6], data[7], data[8:24], data[24:40]
    ports = struct.unpack_from("!HH", data, at)
    if protocol in (ICMP, ICMPV6):
        ports = (data[at], struct.unpack_from("!H", data, at + 4)[0])
    return Packet(
        ip_address(source),
        ip_address(destination),
        protocol,
        ports,
        data[at + 13] if protocol == TCP else 0,
        hops,
    )


def packet(source: str, destination: str, protocol: int, *ports: int, **more: int) -> Packet:
    """From one port to another; a single one is the destination, from a port of no meaning."""
    both = (40000, ports[0]) if len(ports) == 1 else ports or (0, 0)
    return Packet(ip_address(source), ip_address(destination), protocol, (both[0], both[1]), **more)


def tcp(source: str, destination: str, *ports: int, flags: int = SYN, **more: int) -> Packet:
    return packet(source, destination, TCP, *ports, flags=flags, **more)
