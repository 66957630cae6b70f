"""Networks and addresses: what each node holds where, and whether that can work on real links."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from appliance.plan.model import Address, Interface, Network, Origin, Prefix, Role, Route
from appliance.plan.vlans import check_vlans, interfaces, vlan
from appliance.site.document import Loc
from appliance.site.faults import Faults
from appliance.site.schema import Network as Stated
from appliance.site.schema import Site
from appliance.site.words import meant, quote


def resolve_networks(site: Site, faults: Faults) -> dict[str, Network]:
    """Every network that was understood, its faults noted."""
    cards = interfaces(site)
    networks = {
        name: _network(name, stated, cards[name], site, faults)
        for name, stated in site.networks.items()
    }
    if faults.stated("networks") and not faults.names("networks"):
        faults.add(("networks",), "a site needs at least one network")
    for network in networks.values():
        _check_nodes(network, site, faults)
        _check_link_local(network, faults)
        _check_family_by_family(network, faults)
        _check_virtual(network, site, faults)
        _check_next_hops(network, networks, faults)
    check_vlans(site, networks, faults)
    _check_unique(networks, faults)
    _check_overlaps(networks, faults)
    _check_defaults(networks, faults)
    _check_routes(networks, faults)
    return networks


def _network(name: str, stated: Stated, interface: str, site: Site, faults: Faults) -> Network:
    loc = ("networks", name)
    return Network(
        name=name,
        interface=interface,
        role=stated.role,
        addresses=_per_node(stated.addresses, site),
        aliases=_per_node(stated.aliases, site),
        virtual=stated.virtual,
        gateways=stated.gateway,
        routes=tuple(
            Route(route.to, route.via, faults.origin((*loc, "routes", i)))
            for i, route in enumerate(stated.routes)
        ),
        origin=faults.origin(loc),
        vlan=vlan(stated),
    )


def _per_node(
    stated: Mapping[str, tuple[Interface, ...]], site: Site
) -> dict[str, tuple[Interface, ...]]:
    """The addresses of every node of the site, in its order; none is an empty tuple."""
    return {node: stated.get(node, ()) for node in site.nodes}


def _check_nodes(network: Network, site: Site, faults: Faults) -> None:
    known = faults.names("nodes")
    stated = site.networks[network.name]
    loc: Loc = ("networks", network.name, "addresses")
    for key, given in (("addresses", stated.addresses), ("aliases", stated.aliases)):
        for node in given:
            if known and node not in known:
                at = ("networks", network.name, key, node)
                faults.add(at, f"unknown node {quote(node)}", meant(node, known), key=True)
    for node in site.nodes:
        if not network.addresses[node] and faults.intact(*loc):
            faults.add(loc, f"node {quote(node)} has no address in network {quote(network.name)}")


def _check_link_local(network: Network, faults: Faults) -> None:
    for address, loc in _placed(network):
        if link_local(address.ip) and "virtual" not in loc:
            what = f"{address.ip} is a link-local address: the kernel makes a node's own"
            faults.add(loc, what, "it can be a virtual address")


def _check_family_by_family(network: Network, faults: Faults) -> None:
    """The nodes meet in one prefix: VRRP and state sync go from own address to own address."""
    loc: Loc = ("networks", network.name, "addresses")
    if len(network.addresses) != 2 or not faults.intact(*loc):
        return
    first, second = network.addresses
    for version in (4, 6):
        ours, theirs = network.own(first, version), network.own(second, version)
        if not all(network.addresses.values()) or (ours is None and theirs is None):
            continue
        if ours is None or theirs is None:
            lacking = first if ours is None else second
            faults.add((*loc, lacking), f"node {quote(lacking)} has no IPv{version} address here")
        elif ours.network != theirs.network:
            what = (
                f"{ours} and {theirs} are not in one subnet: the nodes could not reach each other"
            )
            faults.add((*loc, second), what)


def _check_virtual(network: Network, site: Site, faults: Faults) -> None:
    loc = ("networks", network.name, "virtual")
    if network.virtual and len(faults.names("nodes")) == 1:
        hint = "an address beside the node's own goes under 'aliases'"
        faults.add(loc, "a site of one node has no virtual addresses", hint, key=True)
        return
    if network.virtual and network.role is not Role.TRAFFIC:
        what = f"a {network.role} network has no virtual addresses"
        faults.add(loc, what, f"leave out 'role: {network.role}'", key=True)
        return
    if faults.intact("networks", network.name, "addresses"):
        for i, address in enumerate(network.virtual):
            _check_virtual_on_link(address, network, (*loc, i), faults)


def _check_virtual_on_link(address: Interface, network: Network, loc: Loc, faults: Faults) -> None:
    for node, own in network.addresses.items():
        prefixes = [a.network for a in own if a.version == address.version]
        if not own or (link_local(address.ip) and prefixes):
            continue
        around = next((p for p in prefixes if address.ip in p), None)
        if around is None:
            what = f"virtual address {address} is in no subnet that node {quote(node)} has here"
            have = ", ".join(str(p) for p in prefixes) or f"no IPv{address.version} address"
            faults.add(loc, what, f"{quote(node)} has {have} in network {quote(network.name)}")
            return
        if address.network.prefixlen not in (around.prefixlen, around.max_prefixlen):
            what = f"virtual address {address} has another prefix length than its subnet {around}"
            faults.add(loc, what, f"did you mean {address.ip}/{around.prefixlen}?")
            return


def _check_next_hops(network: Network, networks: Mapping[str, Network], faults: Faults) -> None:
    loc: Loc = ("networks", network.name)
    if network.gateways and network.role is Role.SYNC:
        faults.add((*loc, "gateway"), "a sync network leads nowhere: it has no gateway", key=True)
        return
    for i, gateway in enumerate(network.gateways):
        _check_next_hop("gateway", gateway, network, (*loc, "gateway", i), faults)
    for i, route in enumerate(network.routes):
        via = (*loc, "routes", i, "via")
        if route.via.version != route.to.version:
            faults.add(via, f"{route.via} cannot lead to {route.to}: one is IPv4, one IPv6")
        else:
            _check_next_hop("via", route.via, network, via, faults)


def _check_next_hop(what: str, hop: Address, network: Network, loc: Loc, faults: Faults) -> None:
    if not faults.intact("networks", network.name, "addresses"):
        return
    for own in network.addresses.values():
        prefixes = [a.network for a in own if a.version == hop.version]
        if not own or (prefixes and link_local(hop)):
            continue
        around = next((p for p in prefixes if hop in p), None)
        if around is None:
            faults.add(loc, f"{what} {hop} is not on the link of network {quote(network.name)}")
            return
        if not is_host(hop, around):
            faults.add(loc, f"{what} {hop} is no host's address in {around}")
            return
    if hop in {a.ip for a in network.held()}:
        faults.add(loc, f"{what} {hop} is an address of the appliance itself")


def link_local(address: Address) -> bool:
    """Whether this address has a meaning on its own link only (RFC 4291 section 2.5.6)."""
    return address.version == 6 and address.is_link_local


def is_host(address: Address, prefix: Prefix) -> bool:
    """Whether one machine can have this address of the prefix."""
    if prefix.num_addresses <= 2:
        return True
    last = prefix.broadcast_address if prefix.version == 4 else None
    return address not in (prefix.network_address, last)


def _placed(network: Network) -> Iterable[tuple[Interface, Loc]]:
    """Every address of a network with its place in the file."""
    for key, per_node in (("addresses", network.addresses), ("aliases", network.aliases)):
        for node, some in per_node.items():
            for i, address in enumerate(some):
                yield address, ("networks", network.name, key, node, i)
    for i, address in enumerate(network.virtual):
        yield address, ("networks", network.name, "virtual", i)


def _check_unique(networks: Mapping[str, Network], faults: Faults) -> None:
    seen: dict[tuple[Address, str | None], Loc] = {}
    for name, network in networks.items():
        for address, loc in _placed(network):
            # The same link-local address may stand on every link.
            link = name if link_local(address.ip) else None
            first = seen.setdefault((address.ip, link), loc)
            if first != loc:
                line = faults.origin(first).line
                faults.add(loc, f"address {address.ip} is given twice", f"first in line {line}")


def _check_overlaps(networks: Mapping[str, Network], faults: Faults) -> None:
    """Prefixes overlap only as one inside the other: sorted, what is around comes just before."""
    placed = [
        (address.network, faults.origin(loc), name, loc)
        for name, network in networks.items()
        for address, loc in _placed(network)
        if not link_local(address.ip)
    ]
    placed.sort(key=lambda p: (p[0].version, p[0].network_address.packed, p[0].prefixlen, p[1]))
    around: list[tuple[Prefix, Origin, str, Loc]] = []
    told: set[frozenset[str]] = set()
    for one in placed:
        while around and not _inside(one[0], around[-1][0]):
            around.pop()
        clash = next((p for p in around if p[2] != one[2]), None)
        if clash and (both := frozenset({one[2], clash[2]})) not in told:
            told.add(both)
            first, second = sorted((one, clash), key=lambda p: p[1])
            what = f"{second[0]} overlaps {first[0]} of network {quote(first[2])}"
            faults.add(second[3], what, f"that is in line {first[1].line}")
        if not around or around[-1][0] != one[0] or around[-1][2] != one[2]:
            around.append(one)


def _inside(prefix: Prefix, around: Prefix) -> bool:
    return prefix.version == around.version and prefix.network_address in around


def _check_defaults(networks: Mapping[str, Network], faults: Faults) -> None:
    first: dict[int, Loc] = {}
    for name, network in networks.items():
        for i, gateway in enumerate(network.gateways):
            loc = ("networks", name, "gateway", i)
            if first.setdefault(gateway.version, loc) != loc:
                line = faults.origin(first[gateway.version]).line
                what = f"a second default gateway for IPv{gateway.version}"
                faults.add(loc, what, f"first in line {line}")


def _check_routes(networks: Mapping[str, Network], faults: Faults) -> None:
    seen: dict[Prefix, Loc] = {}
    on_link = {prefix: name for name, n in networks.items() for prefix in n.prefixes()}
    for name, network in networks.items():
        for i, route in enumerate(network.routes):
            loc: Loc = ("networks", name, "routes", i, "to")
            if route.to in on_link:
                what = f"{route.to} is on the link of network {quote(on_link[route.to])}"
                faults.add(loc, what, "a network's own prefix needs no route")
            elif seen.setdefault(route.to, loc) != loc:
                line = faults.origin(seen[route.to]).line
                faults.add(loc, f"a second route to {route.to}", f"first in line {line}")
