"""Firewall rules, NAT and expectations: names looked up, and what can never match refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from appliance.plan.addressing import is_host, link_local
from appliance.plan.model import (
    Action,
    Address,
    AddressSet,
    DestinationNat,
    End,
    Expectation,
    Network,
    Prefix,
    Protocol,
    Rule,
    Service,
    SourceNat,
)
from appliance.plan.services import Catalogue, Services, has_version
from appliance.plan.sets import Ends, Sets, common_versions, mixed
from appliance.site.document import Loc
from appliance.site.faults import Faults
from appliance.site.schema import Expect, Nat, Site
from appliance.site.schema import Rule as StatedRule
from appliance.site.values import ANY, SELF, Target
from appliance.site.words import meant, quote


class Filtering:
    """Resolves what names networks and services."""

    def __init__(self, site: Site, networks: Mapping[str, Network], faults: Faults) -> None:
        self._site = site
        self._networks = networks
        self._faults = faults
        self._names = faults.names("networks")
        self._catalogue = Catalogue(site, faults)
        self._sets = Sets(site, faults)
        self._pair = len(faults.names("nodes")) > 1
        self._virtual = {a.ip for network in networks.values() for a in network.virtual}
        self._owners = dict(_owned(networks.values()))
        self._on_link = {p: name for name, n in networks.items() for p in n.prefixes()}
        # Only where all of it was understood does it say which addresses the appliance lacks.
        self._all_held = faults.networks_intact("addresses", "aliases", "virtual")

    def sets(self) -> tuple[AddressSet, ...]:
        """The address sets in their order."""
        return self._sets.all()

    def rules(self) -> tuple[Rule, ...]:
        """The firewall rules in their order."""
        stated = enumerate(self._site.firewall.rules)
        return tuple(self._rule(rule, ("firewall", "rules", i)) for i, rule in stated)

    def nat(self) -> tuple[tuple[SourceNat, ...], tuple[DestinationNat, ...]]:
        """Source NAT and destination NAT, each in the order of the file."""
        source, destination = [], []
        for i, nat in enumerate(self._site.nat):
            loc: Loc = ("nat", i)
            if nat.snat and nat.dnat:
                self._faults.add(loc, "snat and dnat in one entry", "write two entries")
            elif nat.snat:
                source.append(self._source_nat(nat, nat.snat, loc))
            elif nat.dnat:
                destination.append(self._destination_nat(nat, nat.dnat, loc))
            elif self._faults.intact(*loc):
                self._faults.add(loc, "neither snat nor dnat is given")
        return tuple(source), tuple(destination)

    def expectations(self) -> tuple[Expectation, ...]:
        """The claims that the lab proves."""
        each = enumerate(self._site.expect)
        found = (self._expectation(expect, ("expect", i)) for i, expect in each)
        return tuple(expectation for expectation in found if expectation)

    def network(self, name: str | None, loc: Loc) -> str | None:
        """The network of that name; None for `any` or nothing."""
        if name is None or name == ANY:
            return None
        if name not in self._names:
            self._faults.add(loc, f"unknown network {quote(name)}", meant(name, self._names))
        return name

    def _from(self, name: str | None, loc: Loc) -> str | None:
        if name == SELF:
            self._faults.add((*loc, "from"), "'self' cannot stand under 'from'")
            return None
        return self.network(name, (*loc, "from"))

    def _rule(self, stated: StatedRule, loc: Loc) -> Rule:
        to_self = stated.to == SELF
        source, destination = self._ends(stated, loc)
        services = self._services(stated, {"source": source, "destination": destination}, loc)
        if stated.action is not Action.ACCEPT:
            services = tuple(Service(s.protocol, s.ports) for s in services)
        return Rule(
            from_=self._from(stated.from_, loc),
            to=None if to_self else self.network(stated.to, (*loc, "to")),
            to_self=to_self,
            source=source,
            destination=destination,
            services=services,
            action=stated.action,
            comment=stated.comment,
            origin=self._faults.origin(loc),
            limit=stated.limit,
        )

    def _ends(self, stated: StatedRule | Nat, loc: Loc) -> tuple[End | None, End | None]:
        source = self._sets.end(stated.source, (*loc, "source"))
        return source, self._sets.end(stated.destination, (*loc, "destination"))

    def _services(self, stated: StatedRule | Nat, ends: Ends, loc: Loc) -> Services:
        """The services of a rule, less those of the other IP version; a fault if none is left."""
        services = self._catalogue.of(stated.service, (*loc, "service"))
        possible = common_versions(ends, loc, self._faults)
        fitting = tuple(s for s in services if any(has_version(s, v) for v in possible))
        if possible and services and not fitting:
            names = ", ".join(s.protocol for s in services)
            what = f"{names} never matches here: the addresses are IPv{min(possible)}"
            hint = "icmp is IPv4's, icmpv6 is IPv6's"
            self._faults.add((*loc, "service"), what, hint)
        return fitting

    # NAT

    def _source_nat(self, stated: Nat, target: Target, loc: Loc) -> SourceNat:
        at = (*loc, "snat")
        if target.port is not None:
            self._faults.add(at, "source NAT has no port", f"write {target.address}")
        if stated.to == SELF:
            self._faults.add(
                (*loc, "to"), "source NAT is for what leaves by a network, not for 'self'"
            )
        self._check_answers(target.address, at)
        source, destination = self._ends(stated, loc)
        ends = {"source": source, "destination": destination, "snat": target.address}
        return SourceNat(
            from_=self._from(stated.from_, loc),
            to=None if stated.to == SELF else self.network(stated.to, (*loc, "to")),
            source=source,
            destination=destination,
            services=self._services(stated, ends, loc),
            address=target.address,
            origin=self._faults.origin(loc),
        )

    def _destination_nat(self, stated: Nat, target: Target, loc: Loc) -> DestinationNat:
        at = (*loc, "dnat")
        if stated.to is not None:
            what = "destination NAT has no 'to': where a packet leaves is known only after it"
            self._faults.add((*loc, "to"), what, "leave it out", key=True)
        if not stated.destination and not stated.service and self._faults.intact(*loc):
            what = "this would send every packet to one host"
            self._faults.add(loc, what, "give a destination or a service")
        self._check_receives(target.address, at)
        source, destination = self._ends(stated, loc)
        ends = {"source": source, "destination": destination, "dnat": target.address}
        services = self._services(stated, ends, loc)
        if target.port is not None and self._faults.intact(*loc):
            self._check_ports(stated, services, at)
        return DestinationNat(
            from_=self._from(stated.from_, loc),
            source=source,
            destination=destination,
            services=services,
            address=target.address,
            port=target.port,
            origin=self._faults.origin(loc),
        )

    def _check_ports(self, stated: Nat, services: Services, loc: Loc) -> None:
        with_ports = all(s.protocol in (Protocol.TCP, Protocol.UDP) for s in services)
        if not stated.service or not with_ports:
            what = "a port to rewrite to needs a tcp or udp service"
            self._faults.add(loc, what, "give 'service', such as tcp/80")

    def _check_answers(self, address: Address, loc: Loc) -> None:
        """Somebody must answer for the new source: a virtual address, on a single node its own.

        An address on no link of ours may be routed to the appliance: its operator knows.
        """
        owner = self._owners.get(address)
        if link_local(address):
            self._faults.add(loc, f"{address} is a link-local address: no answer would come back")
        elif address in self._virtual or not self._all_held:
            return
        elif owner and self._pair:
            what = f"{address} belongs to node {quote(owner)} alone: connections would die with it"
            self._faults.add(loc, what, "use a virtual address")
        elif not owner and (around := self._around(address)):
            kind = "virtual" if self._pair else "aliases"
            what = f"the appliance does not hold {address}, so nothing answers for it"
            network = quote(self._on_link[around[0]])
            self._faults.add(loc, what, f"add it to '{kind}' of network {network}")

    def _check_receives(self, address: Address, loc: Loc) -> None:
        owner = self._owners.get(address)
        if link_local(address):
            what = f"{address} is a link-local address: nothing tells on which link"
            self._faults.add(loc, what)
        elif owner and self._pair:
            what = f"{address} belongs to node {quote(owner)} alone: the other cannot answer for it"
            self._faults.add(loc, what, "use a virtual address")
        for prefix in self._around(address):
            if not is_host(address, prefix):
                self._faults.add(loc, f"{address} is no host's address in {prefix}")

    def _around(self, address: Address) -> list[Prefix]:
        """The prefixes on our links that the address lies in."""
        return [p for p in self._on_link if p.version == address.version and address in p]

    # Expectations

    def _expectation(self, stated: Expect, loc: Loc) -> Expectation | None:
        if stated.from_ in (ANY, SELF):
            what = f"an expectation's packet comes from one network, not from '{stated.from_}'"
            self._faults.add((*loc, "from"), what)
            return None
        if stated.to in (ANY, SELF):
            what = f"'{stated.to}' cannot stand under 'to' of an expectation"
            self._faults.add((*loc, "to"), what, "leave 'to' out: the destination tells")
            return None
        from_ = self.network(stated.from_, (*loc, "from"))
        to = self.network(stated.to, (*loc, "to"))
        if stated.source.version != stated.destination.version:
            what = mixed(("source", stated.source), ("destination", stated.destination))
            self._faults.add((*loc, "destination"), what)
        self._check_sender(stated, loc)
        service = self._one_packet(stated, loc)
        if service is None or from_ is None:
            return None
        origin = self._faults.origin(loc)
        return Expectation(
            from_, stated.source, to, stated.destination, service, stated.verdict, origin
        )

    def _check_sender(self, stated: Expect, loc: Loc) -> None:
        for key, end in (("source", stated.source), ("destination", stated.destination)):
            if link_local(end):
                self._faults.add((*loc, key), f"{end} is a link-local address: it is never routed")
        if stated.source in self._owners or stated.source in self._virtual:
            what = f"{stated.source} is an address of the appliance itself"
            self._faults.add((*loc, "source"), what)

    def _one_packet(self, stated: Expect, loc: Loc) -> Service | None:
        at = (*loc, "service")
        services = self._catalogue.of((stated.service,), at)
        if not services:
            return None
        service = services[0]
        ports = {port for s in services for r in s.ports for port in (r.first, r.last)}
        needed = 1 if service.protocol in (Protocol.TCP, Protocol.UDP) else 0
        if len(services) != 1 or len(ports) != needed:
            what = "an expectation is about one packet: one protocol and one port"
            self._faults.add(at, what, "such as tcp/22, ssh or icmp")
            return None
        version = stated.destination.version
        if not has_version(service, version):
            self._faults.add(at, f"{service.protocol} never has IPv{version} addresses")
            return None
        return service


def _owned(networks: Iterable[Network]) -> Iterator[tuple[Address, str]]:
    """Every address that belongs to one node alone, with its node."""
    for network in networks:
        for per_node in (network.addresses, network.aliases):
            for node, some in per_node.items():
                yield from ((address.ip, node) for address in some)
