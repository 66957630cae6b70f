"""Who lives on the networks around the appliance: hosts that follow from the plan alone.

Each address that the site names and that is not the appliance's own gets a host (of an address set
one of each IP version); an address that is on no link lives behind the gateway or next hop that
leads there; every traffic network has at least one host. A real server is a host of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_interface
from itertools import chain, count, islice

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
from appliance.plan.virtual import Forward, VirtualService
from appliance.render.balancing import on_link
from appliance.render.real_servers import gateway

FIRST_SAMPLE = 10  # made-up hosts are .10 and up: low numbers are where people put routers
SAMPLES = 1000  # how far into a prefix a free address is looked for


@dataclass(frozen=True, slots=True)
class Way:
    """How a real server answers clients itself: what is from `source` leaves by `network`, where
    `links` are reached without a router and all else by `router`.
    """

    source: Address
    network: str
    links: tuple[Prefix, ...]
    router: Address | None


@dataclass(frozen=True, slots=True)
class Host:
    """One host: `addresses` on the link, `behind` more that it answers for, `routers` its way
    out.

    `onward`: addresses of other hosts on its link that are reached through it. `serves`: whose
    real or sorry server it is. `client`: it only opens connections, and serves nothing.
    """

    name: str
    network: str
    addresses: tuple[Interface, ...]
    behind: tuple[Address, ...] = ()
    routers: tuple[Address, ...] = ()
    onward: tuple[Address, ...] = ()
    serves: tuple[VirtualService, ...] = ()
    ways: tuple[Way, ...] = ()
    client: bool = False

    def answers(self, address: Address) -> bool:
        """Whether packets to the address end here."""
        return address in self.behind or any(address == own.ip for own in self.addresses)


def hosts(
    plan: Plan, clients: Mapping[str, int] | None = None, elsewhere: Collection[str] = ()
) -> tuple[Host, ...]:
    """The hosts, by network, in the order in which the site names them.

    A network's first host bears the network's name, the others a number besides: `inside`,
    `inside-2`. Real servers are named for the first service that names them: `web-1`, `web-2`,
    `web-sorry`. `clients` asks for a host with so many addresses, of each IP version, on a network:
    `inside-clients`. On the networks `elsewhere` there is nobody else.
    """
    finder = _Finder(plan)
    for router, network in _next_hops(plan):
        finder.add(router, network)
    for service in plan.virtual_services:
        _settle(finder, service)
    for address, hint in _named_addresses(plan):
        finder.add(address, hint)
    for prefix in _named_prefixes(plan):
        finder.cover(prefix)
    for each in finder.networks:
        finder.inhabit(each)
    for asked, number in (clients or {}).items():
        finder.crowd(plan.networks[asked], number)
    taken = finder.names()
    return tuple(
        _host(plan, place, place.name or _free_name(name, taken))
        for name in plan.networks
        for place in finder.on(name)
        if name not in elsewhere or place.client
    )


def _settle(finder: _Finder, service: VirtualService) -> None:
    for number, server in enumerate(service.servers, 1):
        finder.employ(server.addresses, service, f"{service.name}-{number}")
    finder.employ(service.sorry, service, f"{service.name}-sorry")


def _free_name(wanted: str, taken: set[str]) -> str:
    """That name, or with the first number from 2 on that makes it nobody's yet."""
    numbered = (f"{wanted}-{number}" for number in count(2))
    name = next(each for each in chain([wanted], numbered) if each not in taken)
    taken.add(name)
    return name


def own_addresses(plan: Plan) -> set[Address]:
    """Every address that the appliance itself has."""
    own: set[Address] = set()
    for network in plan.networks.values():
        own |= {a.ip for each in network.addresses.values() for a in each}
        own |= {a.ip for each in network.aliases.values() for a in each}
        own |= {a.ip for a in network.virtual}
    return own


def _next_hops(plan: Plan) -> Iterator[tuple[Address, str]]:
    """Through whom the appliance reaches what is on no link of its own."""
    for network in plan.networks.values():
        yield from ((address, network.name) for address in network.gateways)
        yield from ((route.via, network.name) for route in network.routes)


def _named_addresses(plan: Plan) -> Iterator[tuple[Address, str | None]]:
    """The addresses that the site names, with the network that it names beside them."""
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
    onward: list[Address] = field(default_factory=list)
    serves: list[VirtualService] = field(default_factory=list)
    name: str | None = None  # of a host that is not named after its network

    @property
    def client(self) -> bool:
        """Whether it is there to open connections only."""
        return self.name is not None and not self.serves


class _Finder:
    """Puts addresses where they belong."""

    def __init__(self, plan: Plan) -> None:
        self.own = own_addresses(plan)
        self.networks = [n for n in plan.networks.values() if n.role is Role.TRAFFIC]
        self.places: list[_Place] = []

    def on(self, network: str) -> list[_Place]:
        """The hosts on a network."""
        return [place for place in self.places if place.network.name == network]

    def names(self) -> set[str]:
        """The names that are given by now."""
        return {place.name for place in self.places if place.name}

    def employ(self, addresses: tuple[Address, ...], service: VirtualService, name: str) -> None:
        """See that one host has the addresses of a server, and serves."""
        place: _Place | None = None
        for address in addresses:
            place = self._owner(address) or self._house(address, place, name)
        if place and service not in place.serves:
            place.serves.append(service)

    def _house(self, address: Address, place: _Place | None, name: str) -> _Place | None:
        """A home for a server's address: with its others, on a link, or behind who leads to it."""
        link = self._link(address)
        hop = None if link else self._next_hop(address)
        if not link and not hop:
            return place
        network = link[0] if link else hop.network if hop else None
        assert network is not None
        if not place:
            place = _Place(network, [], name=_free_name(name, self.names()))
            self.places.append(place)
        length = link[1].prefixlen if link else address.max_prefixlen
        place.addresses.append(ip_interface((address, length)))
        if hop:
            hop.onward.append(address)
        return place

    def crowd(self, network: Network, number: int) -> None:
        """One more host, with so many addresses of each IP version that the network has."""
        place = _Place(network, [], name=f"{network.name}-clients")
        self.places.append(place)
        for version in sorted({prefix.version for prefix in network.prefixes()}):
            prefix = next(each for each in network.prefixes() if each.version == version)
            for _ in range(number):
                if free := self._free(prefix):
                    place.addresses.append(free)

    def taken(self) -> set[Address]:
        """Every address that is somebody's."""
        others = {a.ip for place in self.places for a in place.addresses}
        return self.own | others | {a for place in self.places for a in place.behind}

    def add(self, address: Address, network: str | None) -> None:
        """See that somebody answers for the address; `network` is where the site says it is."""
        if address in self.taken():
            return
        if address.is_link_local and (near := self._first(network)):
            near.addresses.append(ip_interface((address, 64)))  # RFC 4291, section 2.5.6
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
            plain = [place for place in here if place.name is None]
            if free and plain:
                plain[0].addresses.append(free)
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

    def _owner(self, address: Address) -> _Place | None:
        """The real server that has an address already, with another service."""
        return next((p for p in self.places if p.serves and self._has(p, address)), None)

    def _has(self, place: _Place, address: Address) -> bool:
        return address in [own.ip for own in place.addresses]

    def _at(self, address: Address) -> _Place | None:
        return next((place for place in self.places if self._has(place, address)), None)

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
    return Host(
        name=name,
        network=place.network.name,
        addresses=tuple(place.addresses),
        behind=tuple(place.behind),
        routers=tuple(first.values()),
        onward=tuple(place.onward),
        serves=tuple(place.serves),
        ways=tuple(dict.fromkeys(_ways(plan, place))),
        client=place.client,
    )


def _router(plan: Plan, network: Network, host: Interface) -> Address | None:
    """Whom a host asks to forward: the appliance; on no link of it, who leads there."""
    if host.ip.is_link_local:
        return None
    if not on_link(host.ip, network):
        hops = [r.via for r in network.routes if host.ip in r.to] + [*network.gateways]
        return next((hop for hop in hops if hop.version == host.version), None)
    way = gateway(network, host.version, pair=plan.pair is not None)
    return way if way and way in host.network else _other_router(plan, network, host)


def _other_router(plan: Plan, network: Network, host: Interface) -> Address | None:
    """Some address of the appliance that the host has on its link."""
    own = network.addresses.get(plan.nodes[0].name, ())
    return next((a.ip for a in (*network.virtual, *own) if a.ip in host.network), None)


def _ways(plan: Plan, place: _Place) -> Iterator[Way]:
    """Answers that pass the appliance by leave as its own would: where its gateway is, else where
    the virtual address is at home.
    """
    for service in place.serves:
        for source in service.addresses if service.forward is not Forward.NAT else ():
            network = _outside(plan, source)
            links = tuple(p for p in network.prefixes() if p.version == source.version)
            router = next((g for g in network.gateways if g.version == source.version), None)
            yield Way(source, network.name, links, router)


def _outside(plan: Plan, virtual: Address) -> Network:
    traffic = [n for n in plan.networks.values() if n.role is Role.TRAFFIC]
    leading = (n for n in traffic if any(g.version == virtual.version for g in n.gateways))
    return next(chain(leading, (n for n in traffic if on_link(virtual, n))), traffic[0])
