"""Ethernet frames, as far as the lab must understand them: who, to whom, which protocol and
port.
"""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

IPV4, ARP, DOT1Q, IPV6 = 0x0800, 0x0806, 0x8100, 0x86DD
ICMP, TCP, UDP, ICMPV6, VRRP_PROTOCOL = 1, 6, 17, 58, 112
TUNNELLED = {4: IPV4, 41: IPV6}  # IP in IP, RFC 2003 and RFC 2473: what is in it


@dataclass(frozen=True, slots=True)
class Packet:
    """What is read from a frame; ports, `sequence` and addresses are None where the frame has
    none.
    """

    ethertype: int
    protocol: int | None = None
    source: IPv4Address | IPv6Address | None = None
    destination: IPv4Address | IPv6Address | None = None
    source_port: int | None = None
    destination_port: int | None = None
    sequence: int | None = None
    flags: int = 0
    payload: bytes = b""


def untagged(frame: bytes) -> tuple[int | None, bytes]:
    """The VLAN that a frame is marked for (None: none), and the frame without the mark.

    The lower 12 bits behind the ethertype are its number (IEEE 802.1Q-2022, 9.6).
    """
    if frame[12:14] != DOT1Q.to_bytes(2) or len(frame) < 18:
        return None, frame
    return int.from_bytes(frame[14:16]) & 0x0FFF, frame[:12] + frame[16:]


def dissect(frame: bytes) -> Packet:
    """Read an Ethernet frame, one with a VLAN's tag or in an IP tunnel as if it were not; what is
    cut short or unknown gives a Packet with fewer fields, never an error.
    """
    _, frame = untagged(frame)
    if len(frame) < 14:
        return Packet(0)
    (ethertype,) = struct.unpack_from("!H", frame, 12)
    if ethertype == IPV4 and len(frame) >= 34:
        header = 14 + (frame[14] & 0x0F) * 4
        source, destination = IPv4Address(frame[26:30]), IPv4Address(frame[30:34])
        first = not struct.unpack_from("!H", frame, 20)[0] & 0x1FFF
        end = 14 + struct.unpack_from("!H", frame, 16)[0]
        body = frame[header:end] if first else b""
        if frame[23] in TUNNELLED:
            return _inner(frame[23], body)
        return _transport(Packet(ethertype, frame[23], source, destination), body)
    if ethertype == IPV6 and len(frame) >= 54:
        ends = IPv6Address(frame[22:38]), IPv6Address(frame[38:54])
        if frame[20] in TUNNELLED:
            return _inner(frame[20], frame[54:])
        return _transport(Packet(ethertype, frame[20], *ends), frame[54:])
    return Packet(ethertype)


def _inner(protocol: int, body: bytes) -> Packet:
    return dissect(bytes(12) + TUNNELLED[protocol].to_bytes(2) + body)


def _transport(packet: Packet, body: bytes) -> Packet:
    known = (packet.ethertype, packet.protocol, packet.source, packet.destination)
    if packet.protocol == TCP and len(body) >= 20:
        source, destination, sequence = struct.unpack_from("!HHI", body)
        rest = body[(body[12] >> 4) * 4 :]
        return Packet(*known, source, destination, sequence, body[13], rest)
    if packet.protocol == UDP and len(body) >= 8:
        source, destination = struct.unpack_from("!HH", body)
        return Packet(*known, source, destination, payload=body[8:])
    return Packet(*known, payload=body)


@dataclass(frozen=True, slots=True)
class Match:
    """A kind of frame, for filters; a field that is None matches everything. `port` is either
    end's.
    """

    ethertype: int | None = None
    protocol: int | None = None
    port: int | None = None
    source: str | None = None
    destination: str | None = None

    def hits(self, packet: Packet) -> bool:
        """Whether the packet is of this kind."""
        return (
            self.ethertype in (None, packet.ethertype)
            and self.protocol in (None, packet.protocol)
            and self.port in (None, packet.source_port, packet.destination_port)
            and (self.source is None or packet.source == ip_address(self.source))
            and (self.destination is None or packet.destination == ip_address(self.destination))
        )

    def as_json(self) -> dict[str, Any]:
        """The form in which it travels to the switch."""
        return asdict(self)


VRRP = Match(protocol=VRRP_PROTOCOL)
CONNTRACKD = Match(protocol=UDP, port=3780)
