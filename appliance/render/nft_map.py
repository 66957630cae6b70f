"""Firewall marks in nftables: the maps that give them, and what rules can say of them."""

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

    @property
    def single(self) -> bool:
        """Whether it is one port."""
        return self.first == self.last

    def __str__(self) -> str:
        ports = str(self.first) if self.single else f"{self.first}-{self.last}"
        return f"{self.address} . {self.protocol} . {ports} : {self.mark}"


@dataclass(frozen=True, slots=True)
class MarkMap:
    """From destination address, protocol and port to a mark: one lookup, however many there are.

    With a range of ports among them the kernel goes through all that have the same address
    (nft_set_pipapo.c), instead of hashing; and it refuses ranges that overlap.
    """

    name: str
    family: Family
    elements: tuple[Marked, ...]
    comment: str

    @property
    def ranges(self) -> bool:
        """Whether there is a range of ports among them."""
        return not all(each.single for each in self.elements)


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
