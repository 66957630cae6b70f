"""nftables as typed values, one function or class per concept.

What may stand where is nft(8)'s to say. A protocol that nft has no keyword for is a number, so that
a ruleset loads where /etc/protocols is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.render.nft_map import MarkMap

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Part:
    """One match or statement of a rule; made by the functions below only."""

    text: str


# What else the kernel calls related, a redirect, is for no router to follow or to pass on.
ERRORS = ("destination-unreachable", "time-exceeded", "parameter-problem")
ERRORS_V6 = (*ERRORS, "packet-too-big")


class Hook(StrEnum):
    """Where in a packet's way a base chain hangs."""

    PREROUTING = "prerouting"
    INPUT = "input"
    FORWARD = "forward"
    OUTPUT = "output"
    POSTROUTING = "postrouting"


class Kind(StrEnum):
    """What a base chain may do."""

    FILTER = "filter"
    NAT = "nat"


class Priority(IntEnum):
    """The order of base chains on one hook, by the names that nft gives the numbers."""

    RAW = -300
    MANGLE = -150
    DSTNAT = -100
    FILTER = 0
    SRCNAT = 100


class Policy(StrEnum):
    """What becomes of a packet at the end of a base chain."""

    ACCEPT = "accept"
    DROP = "drop"


class State(StrEnum):
    """What connection tracking says of a packet."""

    NEW = "new"
    ESTABLISHED = "established"
    RELATED = "related"
    INVALID = "invalid"


class Family(StrEnum):
    """An IP version, by the name of its header."""

    IPV4 = "ip"
    IPV6 = "ip6"

    @classmethod
    def of(cls, address: Address | Prefix) -> Family:
        """The family of an address or prefix."""
        return cls.IPV4 if address.version == 4 else cls.IPV6


@dataclass(frozen=True, slots=True)
class Base:
    """What makes a chain a base chain."""

    kind: Kind
    hook: Hook
    priority: Priority
    policy: Policy


@dataclass(frozen=True, slots=True)
class Remark:
    """A line for the reader only, set off by a blank line."""

    words: str


@dataclass(frozen=True, slots=True)
class Rule:
    """Matches and statements in their order, and a comment that the kernel keeps."""

    parts: tuple[Part, ...]
    comment: str | None


Line = Rule | Remark


@dataclass(frozen=True, slots=True)
class Chain:
    """A list of rules; without a base it is reached by `jump` or `goto` only."""

    name: str
    lines: tuple[Line, ...]
    base: Base | None = None


@dataclass(frozen=True, slots=True)
class Set:
    """A named set of addresses of one family; with `prefixes` it may hold whole prefixes."""

    name: str
    family: Family
    elements: tuple[Address | Prefix, ...]
    comment: str
    prefixes: bool = False


@dataclass(frozen=True, slots=True)
class Counter:
    """A named counter, shared by the rules that name it."""

    name: str
    comment: str


@dataclass(frozen=True, slots=True)
class Limit:
    """A named token bucket, shared by the rules that name it: so many packets in a `second`,
    `minute` or `hour`, and as many at once as `burst` says.
    """

    name: str
    packets: int
    per: str
    burst: int


@dataclass(frozen=True, slots=True)
class Helper:
    """A connection-tracking helper for the TCP connections that a rule gives it to."""

    name: str


Object = Set | Counter | Limit | Helper


@dataclass(frozen=True, slots=True)
class Table:
    """A table of family inet, replaced as a whole in the transaction that loads it."""

    name: str
    objects: tuple[Object | MarkMap, ...]
    chains: tuple[Chain, ...]


def rule(*parts: Part | None, comment: str | None = None) -> Rule:
    """A rule of the parts that are there; None is a match that is not wanted."""
    return Rule(tuple(part for part in parts if part), comment)


# Matches.


def iifname(*names: str, other_than: bool = False) -> Part:
    """Came in by one of these interfaces (or by any other than these)."""
    return Part(f"iifname {_not(other_than)}{_any_of([quoted(name) for name in names])}")


def oifname(*names: str, other_than: bool = False) -> Part:
    """Goes out by one of these interfaces (or by any other than these)."""
    return Part(f"oifname {_not(other_than)}{_any_of([quoted(name) for name in names])}")


def loopback() -> Part:
    """Came in by the loopback interface."""
    return Part('iif "lo"')


def saddr(end: Address | Prefix | Set) -> Part:
    """From this address, prefix or named set."""
    return _address("saddr", end)


def daddr(end: Address | Prefix | Set) -> Part:
    """To this address, prefix or named set."""
    return _address("daddr", end)


def nfproto(family: Family) -> Part:
    """Packets of one IP version only."""
    return Part(f"meta nfproto {'ipv4' if family is Family.IPV4 else 'ipv6'}")


def l4proto(*protocols: str | int) -> Part:
    """One of these layer 4 protocols, by nft's keyword or by number."""
    return Part(f"meta l4proto {_any_of([str(protocol) for protocol in protocols])}")


def dport(protocol: str, ranges: Sequence[tuple[int, int]]) -> Part:
    """To one of these ports of TCP or UDP, each range with both ends included."""
    ports = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    return Part(f"{protocol} dport {_any_of(ports)}")


def hops_left(family: Family, count: int) -> Part:
    """TTL or hop limit: 255 proves that the sender is on the link."""
    return Part(f"{'ip ttl' if family is Family.IPV4 else 'ip6 hoplimit'} {count}")


def icmp_type(*names: str) -> Part:
    """One of these ICMP types, by nft's names."""
    return Part(f"icmp type {_any_of(names)}")


def icmpv6_type(*names: str) -> Part:
    """One of these ICMPv6 types, by nft's names."""
    return Part(f"icmpv6 type {_any_of(names)}")


def ct_state(state: State) -> Part:
    """As connection tracking sees the packet."""
    return Part(f"ct state {state}")


def answers() -> Part:
    """What goes the other way than the packet that opened its connection."""
    return Part("ct direction reply")


def not_a_first_segment() -> Part:
    """A TCP segment that is not the plain SYN that opens a connection."""
    return Part("tcp flags & (fin | syn | rst | ack) != syn")


def tcp_reset() -> Part:
    """A TCP segment with RST."""
    return Part("tcp flags & rst == rst")


def source_not_routed_back() -> Part:
    """An answer would not leave by the interface that this came in by (RFC 3704, strict)."""
    return Part("fib saddr . iif oif missing")


def own_source() -> Part:
    """From an address that this machine holds now."""
    return Part("fib saddr type local")


# Statements.


def accept() -> Part:
    """Let the packet through this hook."""
    return Part("accept")


def drop() -> Part:
    """Let the packet vanish."""
    return Part("drop")


def reject() -> Part:
    """Answer by ICMP or ICMPv6: port unreachable."""
    return Part("reject with icmpx port-unreachable")


def reject_by_reset() -> Part:
    """Answer a TCP segment with RST."""
    return Part("reject with tcp reset")


def jump(chain: Chain) -> Part:
    """Go on in another chain, and come back from its end."""
    return Part(f"jump {chain.name}")


def goto(chain: Chain) -> Part:
    """Go on in another chain for good."""
    return Part(f"goto {chain.name}")


def count() -> Part:
    """Count packets and bytes of this rule."""
    return Part("counter")


def count_as(counter: Counter) -> Part:
    """Count packets and bytes in a named counter."""
    return Part(f"counter name {quoted(counter.name)}")


def within(limit: Limit) -> Part:
    """Go on with this rule only while the named limit allows."""
    return Part(f"limit name {quoted(limit.name)}")


def log(prefix: str) -> Part:
    """Write the packet's header to the kernel's log, with this in front."""
    return Part(f"log prefix {quoted(prefix)} level info")


def set_helper(helper: Helper) -> Part:
    """Give the new connection this helper."""
    return Part(f"ct helper set {quoted(helper.name)}")


def snat(address: Address) -> Part:
    """Rewrite the source; `persistent` gives a client the same mapping for each connection."""
    return Part(f"snat {Family.of(address)} to {address} persistent")


def dnat(address: Address, port: int | None) -> Part:
    """Rewrite the destination, and its port where one is given."""
    host = f"[{address}]" if port and address.version == 6 else str(address)
    return Part(f"dnat {Family.of(address)} to {host}{f':{port}' if port else ''}")


def _address(field: str, end: Address | Prefix | Set) -> Part:
    if isinstance(end, Set):
        return Part(f"{end.family} {field} @{end.name}")
    return Part(f"{Family.of(end)} {field} {plain(end)}")


def _any_of(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{{ {', '.join(items)} }}"


def _not(wanted: bool) -> str:
    return "!= " if wanted else ""


def plain(prefix: Address | Prefix) -> str:
    """A prefix of one address reads better as that address."""
    if isinstance(prefix, IPv4Network | IPv6Network) and prefix.num_addresses == 1:
        return str(prefix.network_address)
    return str(prefix)


def quoted(words: str) -> str:
    """A string of nft: there is no way to write a double quote in one."""
    return f'"{words}"'
