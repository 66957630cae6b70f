"""Firewall marks in nftables: the map that gives them, and what rules can say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from appliance.render.nft import Family, Part

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Marked:
    """Packets to one address, by TCP or UDP, to a range of ports with both ends included."""

    address: Address
    protocol: str
    first: int
    last: int
    mark: int

    def __str__(self) -> str:
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{self.address} . {self.protocol} . {ports} : {self.mark}"


@dataclass(frozen=True, slots=True)
class MarkMap:
    """From destination address, protocol and port to a mark: one lookup, however many there are.

    The kernel refuses ranges that overlap.
    """

    name: str
    family: Family
    elements: tuple[Marked, ...]
    comment: str


def mark_by(which: MarkMap) -> Part:
    """Mark the packet as the map says; where it says nothing the rule does not match."""
    key = f"{which.family} daddr . meta l4proto . th dport"
    return Part(f"meta mark set {key} map @{which.name}")


def marked(marks: Sequence[int]) -> Part:
    """Packets that have one of these marks."""
    return Part(f"meta mark {{ {', '.join(str(mark) for mark in marks)} }}")


def marked_at_all() -> Part:
    """Packets that have any mark."""
    return Part("meta mark != 0")


def unmarked() -> Part:
    """Packets without a mark."""
    return Part("meta mark 0")


def saddr_of(hosts: Sequence[Address]) -> Part:
    """From one of these hosts, all of one IP version."""
    return Part(f"{Family.of(hosts[0])} saddr {{ {', '.join(map(str, hosts))} }}")


def daddr_of(hosts: Sequence[Address]) -> Part:
    """To one of these hosts, all of one IP version."""
    return Part(f"{Family.of(hosts[0])} daddr {{ {', '.join(map(str, hosts))} }}")


def tcp_ports(source: int, first: int, last: int) -> Part:
    """TCP from one port to a range of ports, both ends included."""
    return Part(f"tcp sport {source} tcp dport {first}-{last}")
