"""What the ruleset does for virtual services: marks, and the ways of packets past the filter.

With NAT a client's packet comes in at `input`, still to the virtual address, and leaves by
`output`; the server's answer passes `forward`. Otherwise answers never come by here, so that
connection tracking sees half of each connection and must not be asked (docs/load-balancing.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from appliance.plan.model import Action, Address, Network, Pair, Plan, Protocol, Rule
from appliance.plan.virtual import CLIENT_PORTS, FTP_DATA, Forward, VirtualService
from appliance.render import addresses, nft, nft_map
from appliance.render.nft import (
    ERRORS,
    ERRORS_V6,
    Base,
    Chain,
    Family,
    Hook,
    Kind,
    Line,
    Policy,
    Priority,
)
from appliance.render.nft_map import Marked, MarkMap
from appliance.render.services import merged
from appliance.render.view import View

# The port of IPVS's sync messages, and its group (IP_VS_SYNC_GROUP in ip_vs_sync.c). For IPv6 a
# group of the site (RFC 4291 section 2.7): a link-local one would be sent to from a link-local
# address, which nobody knows.
SYNC_PORT = 8848
SYNC_GROUP: Mapping[int, Address] = {
    4: IPv4Address("224.0.0.81"),
    6: IPv6Address("ff15::81"),
}

RuleLines = Callable[[Rule], Iterator[nft.Rule]]


def maps(plan: Plan) -> list[MarkMap]:
    """The marks of each IP version that has any: of single ports, and behind them of ranges."""
    found = []
    for version in addresses.VERSIONS:
        all_of = [each for s in plan.virtual_services for each in _elements(s, version)]
        for name, single in (("marks", True), ("ranges", False)):
            elements = tuple(each for each in all_of if each.single is single)
            if elements:
                family = Family.of(elements[0].address)
                comment = f"virtual services, {'single ports' if single else 'ranges of ports'}"
                found.append(MarkMap(f"{name}{version}", family, elements, comment))
    return found


def _elements(service: VirtualService, version: int) -> Iterator[Marked]:
    for address in service.of(version):
        for protocol in (Protocol.TCP, Protocol.UDP):
            for first, last in merged(service.ranges(protocol)):
                yield Marked(address, protocol, first, last, service.marks[version])


def marking(given: Sequence[MarkMap], helpers: Chain | None) -> Chain:
    """Marks, after connection tracking (-200), and before destination NAT (-100) and IPVS.

    What is balanced gets no helper: FTP's would take its data connections for its own. Answers to
    what a node itself has opened, from a port that a service has as well, are for the node.
    """
    rules = [nft.rule(nft.answers(), nft.accept())]
    for each in given:
        first = (nft_map.unmarked(),) if each.ranges else ()
        rules.append(nft.rule(*first, nft_map.mark_by(each)))
    if helpers:
        rules.append(nft.rule(nft_map.unmarked(), nft.jump(helpers)))
    base = Base(Kind.FILTER, Hook.PREROUTING, Priority.MANGLE, Policy.ACCEPT)
    return Chain("marks", tuple(rules), base)


# The way in


def balanced(view: View, lines: RuleLines) -> Chain:
    """What is marked: a virtual service opens itself, but the site's rules can refuse its clients.

    They see the packet as it comes, to the virtual address. A rule that names the network where it
    goes is for the services that have servers there.
    """
    rules = [each for rule in _telling(view.plan) for each in _for_services(view, rule, lines)]
    return Chain("balanced", (*rules, nft.rule(nft.count(), nft.accept())))


def _telling(plan: Plan) -> list[Rule]:
    """The rules that can make a difference: behind the last refusal all is accepted anyway.

    A service is not the appliance itself, though it comes in at the same hook.
    """
    rules = [rule for rule in plan.rules if not rule.to_self]
    while rules and rules[-1].action is Action.ACCEPT:
        rules.pop()
    return rules


def _for_services(view: View, rule: Rule, lines: RuleLines) -> Iterator[nft.Rule]:
    served = (Protocol.TCP, Protocol.UDP)
    services = tuple(each for each in rule.services if each.protocol in served)
    if rule.services and not services:
        return
    marks = _marks_towards(view.plan, rule.to) if rule.to else ()
    if rule.to and not marks:
        return
    # At this hook there is no interface to go out by, and no reset may leave a virtual address.
    here = replace(rule, to=None, to_self=True, services=services)
    for each in (*_under_way(view, here, lines), *lines(here)):
        yield replace(each, parts=(nft_map.marked(marks), *each.parts)) if marks else each


def _under_way(view: View, rule: Rule, lines: RuleLines) -> Iterator[nft.Rule]:
    """What a limited rule lets in beside its limit: of a connection whose answers go another way
    every packet comes here, and only the first is to count.
    """
    if not rule.limit or rule.action is not Action.ACCEPT or not _answered_elsewhere(view.plan):
        return
    tcp = tuple(each for each in rule.services if each.protocol is Protocol.TCP)
    if tcp or not rule.services:
        for each in lines(replace(rule, limit=None, services=tcp)):
            yield replace(each, parts=(nft.not_a_first_segment(), *each.parts))


def _marks_towards(plan: Plan, network: str) -> list[int]:
    """The marks of the services that have a server in that network."""
    there = plan.networks[network]
    return [
        mark
        for service in plan.virtual_services
        for version, mark in service.marks.items()
        if any(on_link(server.address(version), there) for server in service.servers)
    ]


def on_link(address: Address, network: Network) -> bool:
    """Whether a host of that address would be reached there without a router."""
    prefixes = network.prefixes()
    return any(address.version == p.version and address in p for p in prefixes)


def one_way(view: View, to: Chain) -> Iterator[Line]:
    """Services whose answers do not come by here, before connection tracking has a say.

    What it says of ICMP errors is of no more use: it forgets a connection that it sees half of.
    """
    services = _answered_elsewhere(view.plan)
    if not services:
        return
    yield nft.Remark("Virtual services whose answers go another way.")
    yield from _admitted(view, services, to)
    for version in addresses.VERSIONS:
        hosts = tuple(dict.fromkeys(a for service in services for a in service.of(version)))
        if hosts:
            kind = nft.icmp_type(*ERRORS) if version == 4 else nft.icmpv6_type(*ERRORS_V6)
            yield nft.rule(nft_map.daddr_of(hosts), kind, nft.accept(), comment="of their clients")


def _answered_elsewhere(plan: Plan) -> list[VirtualService]:
    return [s for s in plan.virtual_services if s.forward is not Forward.NAT]


def translates(plan: Plan) -> bool:
    """Whether IPVS rewrites addresses."""
    return any(service.forward is Forward.NAT for service in plan.virtual_services)


def untranslated(plan: Plan) -> Iterator[nft.Rule]:
    """A server that answers the client itself must see the client's address."""
    if services := _answered_elsewhere(plan):
        yield nft.rule(nft_map.marked(_marks(services)), nft.accept(), comment="answered elsewhere")


def both_ways(view: View, to: Chain) -> Iterator[Line]:
    """New connections to services by NAT: connection tracking has seen that they are such."""
    services = [s for s in view.plan.virtual_services if s.forward is Forward.NAT]
    if services:
        yield nft.Remark("Virtual services.")
        yield from _admitted(view, services, to)


def _admitted(view: View, services: Sequence[VirtualService], to: Chain) -> Iterator[nft.Rule]:
    yield nft.rule(view.comes_from(None), nft_map.marked(_marks(services)), nft.goto(to))


def _marks(services: Sequence[VirtualService]) -> list[int]:
    return [mark for service in services for mark in service.marks.values()]


def sync_messages(view: View, pair: Pair) -> Iterator[Line]:
    """What the peer's IPVS tells of its connections, from whichever address of its card."""
    if not view.plan.virtual_services:
        return
    ends = addresses.sync_links(view.plan, view.node, pair)[0]
    version = ends.own.version
    network, peer = view.plan.networks[pair.sync[0]], view.plan.peer(view.node)
    assert peer is not None, "a pair has a peer"
    held = [*network.addresses[peer.name], *network.aliases.get(peer.name, ())]
    yield nft.rule(
        nft.iifname(ends.interface),
        nft_map.saddr_of([each.ip for each in held if each.version == version]),
        nft.daddr(SYNC_GROUP[version]),
        nft.dport("udp", [(SYNC_PORT, SYNC_PORT)]),
        nft.count(),
        nft.accept(),
        comment="IPVS",
    )


# Active FTP: the server opens data connections to the client


def data_connections(view: View) -> Iterator[Line]:
    """The way out of active data connections, unless a rule of the site refuses it; with other
    forwarding than NAT none comes by.
    """
    active = list(_servers(view))
    if active:
        yield nft.Remark("Active FTP.")
    for part, service, _ in active:
        yield nft.rule(
            view.comes_from(None),
            *(part, view.goes_to(None), _data_ports(), nft.count(), nft.accept()),
            comment=view.line(service.origin, f"{service.name}, active FTP"),
        )


def data_sources(view: View) -> Iterator[nft.Rule]:
    """To the client they come from the address that it knows, whichever node is active."""
    for part, service, version in _servers(view):
        yield nft.rule(
            part,
            view.goes_to(None),
            _data_ports(),
            nft.count(),
            nft.snat(service.of(version)[0]),
            comment=view.line(service.origin, f"{service.name}, active FTP"),
        )


def _servers(view: View) -> Iterator[tuple[nft.Part, VirtualService, int]]:
    for service in filter(_is_active, view.plan.virtual_services):
        for version in service.versions:
            hosts = [server.address(version) for server in service.servers]
            yield nft_map.saddr_of(hosts), service, version


def _is_active(service: VirtualService) -> bool:
    return bool(service.ftp and service.ftp.active and service.forward is Forward.NAT)


def _data_ports() -> nft.Part:
    return nft_map.tcp_ports(FTP_DATA, CLIENT_PORTS.first, CLIENT_PORTS.last)
