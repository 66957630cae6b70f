"""The plan: what a site file means, as frozen typed values.

Made once by `appliance.plan.resolve`, read by the renderers, the lab and the tests. Nothing in it
comes from the host, the clock or the environment, and nothing after it reads the site file again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import TYPE_CHECKING

from appliance.errors import Problem

if TYPE_CHECKING:
    from appliance.plan.virtual import VirtualService

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
Prefix = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """Where in the site file a thing was said; counts from 1. Generated files point back to it."""

    line: int
    column: int


class Role(StrEnum):
    """What a network is for."""

    TRAFFIC = "traffic"
    SYNC = "sync"
    MANAGEMENT = "management"


@dataclass(frozen=True, slots=True)
class Node:
    """One appliance; `priority` is VRRP's (1 to 254, RFC 9568 section 5.2.4)."""

    name: str
    priority: int


@dataclass(frozen=True, slots=True)
class Route:
    """A static route out of a network."""

    to: Prefix
    via: Address
    origin: Origin


@dataclass(frozen=True, slots=True)
class Vlan:
    """What carries a tagged network: the network `on` whose card it is, and its `tag` (1 to 4094,
    IEEE 802.1Q-2022 table 9-2).
    """

    on: str
    tag: int


@dataclass(frozen=True, slots=True)
class Network:
    """One network that every node stands in with one network card, or tagged on another's.

    `addresses` and `aliases` are per node name; the first address of a family is the node's own
    there. `virtual` moves with the active role. `gateways` holds at most one a family.
    """

    name: str
    interface: str
    role: Role
    addresses: Mapping[str, tuple[Interface, ...]]
    aliases: Mapping[str, tuple[Interface, ...]]
    virtual: tuple[Interface, ...]
    gateways: tuple[Address, ...]
    routes: tuple[Route, ...]
    origin: Origin
    vlan: Vlan | None = None

    def own(self, node: str, version: int) -> Interface | None:
        """The address, with its prefix, that `node` has here in IP `version` 4 or 6, if any."""
        return next((a for a in self.addresses[node] if a.version == version), None)

    def held(self) -> tuple[Interface, ...]:
        """Every address here that is a node's, or moves between them, in the order of the file."""
        all_of = [a for each in (self.addresses, self.aliases) for n in each for a in each[n]]
        return (*all_of, *self.virtual)

    def prefixes(self) -> tuple[Prefix, ...]:
        """The prefixes that are on the link, in the order of the file, each once."""
        return tuple(dict.fromkeys(address.network for address in self.held()))


class Protocol(StrEnum):
    """Layer 4 protocols a rule can name, by their nftables names."""

    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"
    ICMPV6 = "icmpv6"


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """Destination ports from `first` to `last`, both included."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Service:
    """What a rule lets through: a protocol, destination ports (none: all), a conntrack helper."""

    protocol: Protocol
    ports: tuple[PortRange, ...] = ()
    helper: str | None = None


@dataclass(frozen=True, slots=True)
class AddressSet:
    """Prefixes under one name, of one IP version or of both; none of them overlap."""

    name: str
    elements: tuple[Prefix, ...]

    def of(self, version: int) -> tuple[Prefix, ...]:
        """The elements of IP `version` 4 or 6, in order."""
        return tuple(each for each in self.elements if each.version == version)

    def __contains__(self, address: Address) -> bool:
        """Whether the address lies in one of the elements."""
        return any(address in each for each in self.elements)


# What one end of a packet is held against.
End = Prefix | AddressSet


def versions(end: End | Address | None) -> frozenset[int]:
    """The IP versions of the packets that can have this end; None is any end."""
    if end is None:
        return frozenset({4, 6})
    if isinstance(end, AddressSet):
        return frozenset(each.version for each in end.elements)
    return frozenset({end.version})


class Per(StrEnum):
    """What a rate counts in, by nftables' names."""

    SECOND = "second"
    MINUTE = "minute"
    HOUR = "hour"


@dataclass(frozen=True, slots=True)
class Rate:
    """How many, and in what time."""

    count: int
    per: Per


class Action(StrEnum):
    """What a rule does with a packet that it matches."""

    ACCEPT = "accept"
    DROP = "drop"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Rule:
    """One firewall rule, first match wins. No service means every protocol.

    `from_` and `to` name networks; None is any network. `to_self` is a packet for the appliance
    itself (then `to` is None). Addresses match after destination NAT and before source NAT, as the
    packet is while forwarded. What is over the limit does not match.
    """

    from_: str | None
    to: str | None
    to_self: bool
    source: End | None
    destination: End | None
    services: tuple[Service, ...]
    action: Action
    comment: str | None
    origin: Origin
    limit: Rate | None = None


@dataclass(frozen=True, slots=True)
class SourceNat:
    """Rewrite the source of what leaves by network `to` (None: any); the first match wins."""

    from_: str | None
    to: str | None
    source: End | None
    destination: End | None
    services: tuple[Service, ...]
    address: Address
    origin: Origin


@dataclass(frozen=True, slots=True)
class DestinationNat:
    """Rewrite the destination, maybe its port, of what comes in by network `from_` (None: any)."""

    from_: str | None
    source: End | None
    destination: End | None
    services: tuple[Service, ...]
    address: Address
    port: int | None
    origin: Origin


@dataclass(frozen=True, slots=True)
class DropLog:
    """Log what no rule accepted, bounded in its rate: a flood must not fill the journal."""

    dropped: bool
    invalid: bool
    limit: Rate


@dataclass(frozen=True, slots=True)
class VirtualRouter:
    """One VRRP instance: a network and an IP version (RFC 9568: families are apart)."""

    network: str
    version: int
    vrid: int
    addresses: tuple[Interface, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """What only a site of two nodes has; `advert_ms` in milliseconds, VRRPv3's steps of 10 ms.

    `sync` names the networks that carry the pair's state, the preferred one first.
    """

    advert_ms: int
    preempt: bool
    sync: tuple[str, ...]
    routers: tuple[VirtualRouter, ...]


@dataclass(frozen=True, slots=True)
class Ssh:
    """Who may log in: the networks it is opened on, and public keys in OpenSSH's one-line form."""

    networks: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Metrics:
    """Where the metrics can be read: the networks that they are opened on, and the TCP port."""

    networks: tuple[str, ...]
    port: int


class Transport(StrEnum):
    """How log lines travel."""

    UDP = "udp"
    TCP = "tcp"


@dataclass(frozen=True, slots=True)
class LogHost:
    """Where a node sends what it writes to its journal."""

    address: Address
    port: int
    protocol: Transport


@dataclass(frozen=True, slots=True)
class Servers:
    """Who serves the nodes themselves: log hosts, and time and name servers in their order."""

    syslog: tuple[LogHost, ...] = ()
    ntp: tuple[Address, ...] = ()
    dns: tuple[Address, ...] = ()


class Verdict(StrEnum):
    """What the operator expects of a packet."""

    ACCEPT = "accept"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Expectation:
    """A claim of the site about its own ruleset, proven by a packet in the lab."""

    from_: str
    source: Address
    to: str | None
    destination: Address
    service: Service
    verdict: Verdict
    origin: Origin


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole site. `digest` is what `sha256sum` prints for the site file; `warnings` are for who
    wrote it; `firmware` are Debian's packages of it, for real machines.
    """

    site: str
    file: str
    digest: str
    nodes: tuple[Node, ...]
    networks: Mapping[str, Network]
    rules: tuple[Rule, ...]
    source_nat: tuple[SourceNat, ...]
    destination_nat: tuple[DestinationNat, ...]
    log: DropLog
    pair: Pair | None
    ssh: Ssh | None
    metrics: Metrics | None
    expectations: tuple[Expectation, ...]
    virtual_services: tuple[VirtualService, ...] = ()
    warnings: tuple[Problem, ...] = ()
    sets: tuple[AddressSet, ...] = ()
    servers: Servers = Servers()
    firmware: tuple[str, ...] = ()

    def node(self, name: str) -> Node:
        """The node of that name; KeyError when there is none."""
        return next(node for node in self.nodes if node.name == name)

    def peer(self, name: str) -> Node | None:
        """The other node of a pair; None on a site of one."""
        return next((node for node in self.nodes if node.name != name), None)

    def cards(self) -> tuple[str, ...]:
        """The networks that have a card of their own, in the order of the file."""
        return tuple(name for name, network in self.networks.items() if network.vlan is None)

    def card(self, network: str) -> str:
        """The network whose card that network is on: of a tagged one another, else itself."""
        vlan = self.networks[network].vlan
        return vlan.on if vlan else network
