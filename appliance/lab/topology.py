"""Who lives on the networks around the appliance: hosts that follow from the plan alone.

Each address that the site names and that is not the appliance's own gets a host (of an address set
one of each IP version); an address that is on no link lives behind the gateway or next hop that
leads there; every traffic network has at least one host.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_interface
from itertools import chain, islice

from appliance.plan.model import (
    Address,
    AddressSet,
    End,
    Interface,
    Network,
    Plan,
    Prefix,
    Role,
    versions,
)

FIRST_SAMPLE = 10  # made-up hosts are .10 and up: low numbers are where people put routers
SAMPLES = 1000  # how far into a prefix a free address is looked for


@dataclass(frozen=True, slots=True)
class Host:
    """One host: `addresses` on the link, `behind` more that it answers for, `routers` its way
    out.
    """

    name: str
    network: str
    addresses: tuple[Interface, ...]
    behind: tuple[Address, ...]
    routers: tuple[Address, ...]

    def answers(self, address: Address) -> bool:
        """Whether packets to the address end here."""
        return address in self.behind or any(address == own.ip for own in self.addresses)


def hosts(plan: Plan) -> tuple[Host, ...]:
    """The hosts, by network, in the order in which the site names them.

    A network's first host bears the network's name, the others a number besides: `inside`,
    `inside-2`.
    """
    finder = _Finder(plan)
    for address, hint in _named_addresses(plan):
        finder.add(address, hint)
    for prefix in _named_prefixes(plan):
        finder.cover(prefix)
    for network in finder.networks:
        finder.inhabit(network)
    return tuple(
        _host(plan, place, name if number == 1 else f"{name}-{number}")
        for name in plan.networks
        for number, place in enumerate(finder.on(name), 1)
    )


def own_addresses(plan: Plan) -> set[Address]:
    """Every address that the appliance itself has."""
    own: set[Address] = set()
    for network in plan.networks.values():
        own |= {a.ip for each in network.addresses.values() for a in each}
        own |= {a.ip for each in network.aliases.values() for a in each}
        own |= {a.ip for a in network.virtual}
    return own


def _named_addresses(plan: Plan) -> Iterator[tuple[Address, str | None]]:
    """The addresses that the site names, with the network that it names beside them."""
    for network in plan.networks.values():
        yield from ((address, network.name) for address in network.gateways)
        yield from ((route.via, network.name) for route in network.routes)
    for claim in plan.expectations:
        yield claim.source, claim.from_
        yield claim.destination, claim.to
    for nat in plan.destination_nat:
        yield nat.address, None
    for prefix in _prefixes(plan):
        if prefix.num_addresses == 1:
            yield prefix.network_address, None


def _named_prefixes(plan: Plan) -> Iterator[Prefix]:
    return (prefix for prefix in _prefixes(plan) if prefix.num_addresses > 1)


def _prefixes(plan: Plan) -> Iterator[Prefix]:
    for nat in plan.source_nat:
        yield from chain(_samples(nat.source), _samples(nat.destination))
    for rule in plan.rules:
        yield from chain(_samples(rule.source), _samples(rule.destination))


def _samples(end: End | None) -> Iterator[Prefix]:
    """What a rule matches; of an address set, which may be long, one of each IP version."""
    if isinstance(end, AddressSet):
        yield from (end.of(version)[0] for version in sorted(versions(end)))
    elif end is not None:
        yield end


@dataclass(slots=True)
class _Place:
    """A host while it is being found."""

    network: Network
    addresses: list[Interface]
    behind: list[Address] = field(default_factory=list)


class _Finder:
    """Puts addresses where they belong."""

    def __init__(self, plan: Plan) -> None:
        self.own = own_addresses(plan)
        self.networks = [n for n in plan.networks.values() if n.role is Role.TRAFFIC]
        self.places: list[_Place] = []

    def on(self, network: str) -> list[_Place]:
        """The hosts on a network."""
        return [place for place in self.places if place.network.name == network]

    def taken(self) -> set[Address]:
        """Every address that is somebody's."""
        others = {a.ip for place in self.places for a in place.addresses}
        return self.own | others | {a for place in self.places for a in place.behind}

    def add(self, address: Address, network: str | None) -> None:
        """See that somebody answers for the address; `network` is where the site says it is."""
        if address in self.taken():
            return
        link = self._link(address)
        if link:
            self.places.append(_Place(link[0], [ip_interface((address, link[1].prefixlen))]))
            return
        place = self._next_hop(address) or self._first(network)
        if place:
            place.behind.append(address)

    def cover(self, prefix: Prefix) -> None:
        """See that somebody lives in a prefix that is reached by a next hop or a gateway."""
        if any(address in prefix for address in self.taken()) or self._on_some_link(prefix):
            return
        free = self._free(prefix)
        if free:
            self.add(free.ip, None)

    def inhabit(self, network: Network) -> None:
        """See that a network has a host in each of its IP versions, on one host if none is
        there.
        """
        for prefix in network.prefixes():
            here = self.on(network.name)
            if any(a.version == prefix.version for place in here for a in place.addresses):
                continue
            free = self._free(prefix)
            if free and here:
                here[0].addresses.append(free)
            elif free:
                self.places.append(_Place(network, [free]))

    def _free(self, prefix: Prefix) -> Interface | None:
        taken = self.taken()
        first = FIRST_SAMPLE - 1 if prefix.num_addresses > 2 * FIRST_SAMPLE else 0
        candidates: Iterator[Address] = islice(prefix.hosts(), first, SAMPLES)
        free = next((address for address in candidates if address not in taken), None)
        return ip_interface((free, prefix.prefixlen)) if free else None

    def _link(self, address: Address) -> tuple[Network, Prefix] | None:
        every = ((network, prefix) for network in self.networks for prefix in network.prefixes())
        return next(((network, prefix) for network, prefix in every if address in prefix), None)

    def _on_some_link(self, prefix: Prefix) -> bool:
        links = {link for network in self.networks for link in network.prefixes()}
        return any(link.version == prefix.version and link.overlaps(prefix) for link in links)

    def _next_hop(self, address: Address) -> _Place | None:
        """The host that leads to an address that is on no link: most specific route, then
        gateway.
        """
        routes = [r for n in self.networks for r in n.routes if address in r.to]
        ways = [r.via for r in sorted(routes, key=lambda r: r.to.prefixlen, reverse=True)]
        ways += [g for n in self.networks for g in n.gateways if g.version == address.version]
        return next((place for way in ways if (place := self._at(way))), None)

    def _at(self, address: Address) -> _Place | None:
        return next((p for p in self.places if address in [a.ip for a in p.addresses]), None)

    def _first(self, network: str | None) -> _Place | None:
        """Where the site says an address is although no route leads there."""
        for each in self.networks:
            if each.name == network:
                self.inhabit(each)
                return self.on(each.name)[0]
        return None


def _host(plan: Plan, place: _Place, name: str) -> Host:
    routers = [_router(plan, place.network, address) for address in place.addresses]
    first = {router.version: router for router in reversed(routers) if router}
    addresses, behind = tuple(place.addresses), tuple(place.behind)
    return Host(name, place.network.name, addresses, behind, tuple(first.values()))


def _router(plan: Plan, network: Network, host: Interface) -> Address | None:
    """The appliance's address that a host uses: the pair's virtual one, else the first node's
    own.
    """
    own = network.addresses.get(plan.nodes[0].name, ())
    near = (a.ip for a in (*network.virtual, *own) if a.ip in host.network)
    return next(near, None)
