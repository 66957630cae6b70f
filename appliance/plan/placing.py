"""Whether virtual services and their real servers stand where they can play their part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from appliance.plan.addressing import is_host, link_local
from appliance.plan.model import Address, Network, PortRange, Prefix, Protocol, Role
from appliance.plan.virtual import Forward, VirtualService
from appliance.site.document import Loc
from appliance.site.faults import Faults
from appliance.site.schema import Site
from appliance.site.words import quote

SSH_PORT = 22


class Placing:
    """What the appliance holds and what is on its links, to hold services against."""

    def __init__(self, site: Site, networks: Mapping[str, Network], faults: Faults) -> None:
        self._faults = faults
        self._networks = networks
        self._pair = len(faults.names("nodes")) > 1
        self._virtual = {a.ip for network in networks.values() for a in network.virtual}
        self._owners = {
            address.ip: (node, network.name)
            for network in networks.values()
            for per_node in (network.addresses, network.aliases)
            for node, some in per_node.items()
            for address in some
        }
        self._open = _opened(site)
        # Only where all of it was understood does it say what the appliance lacks.
        self._known = faults.networks_intact("addresses", "aliases", "virtual", "role")

    def check(self, service: VirtualService) -> None:
        """Note what is wrong with the places of one service."""
        loc: Loc = ("virtual_services", service.name)
        for i, address in enumerate(service.addresses):
            self._check_address(address, service, (*loc, "address", i))
            if address in service.addresses[:i]:
                self._faults.add((*loc, "address", i), f"address {address} is given twice")
        seen: dict[Address, Loc] = {}
        for i, server in enumerate(service.servers):
            at = (*loc, "servers", i)
            self._check_families("server", server.addresses, service, at)
            for n, address in enumerate(server.addresses):
                self._check_target(address, service, (*at, "address", n))
                self._check_once(address, seen, (*at, "address", n))
        self._check_sorry(service, seen, (*loc, "sorry"))

    def _check_sorry(self, service: VirtualService, seen: dict[Address, Loc], loc: Loc) -> None:
        if service.sorry:
            self._check_families("sorry server", service.sorry, service, loc)
        for n, address in enumerate(service.sorry):
            at = (*loc, "address", n)
            self._check_target(address, service, at)
            if address in seen:
                self._faults.add(at, f"the sorry server {address} is one of those it stands in for")

    def _check_once(self, address: Address, seen: dict[Address, Loc], loc: Loc) -> None:
        if seen.setdefault(address, loc) != loc:
            line = self._faults.origin(seen[address]).line
            self._faults.add(loc, f"server {address} is given twice", f"first in line {line}")

    # The service's own addresses

    def _check_address(self, address: Address, service: VirtualService, loc: Loc) -> None:
        owner = self._owners.get(address)
        if link_local(address):
            what = f"{address} is a link-local address: it cannot be that of a service"
            self._faults.add(loc, what)
        elif address in self._virtual or not self._known:
            return
        elif owner and self._pair:
            what = (
                f"{address} belongs to node {quote(owner[0])} alone: the service would go with it"
            )
            self._faults.add(loc, what, "use a virtual address")
        elif owner:
            self._check_free(address, owner[1], service, loc)
        else:
            self._check_unheld(address, loc)

    def _check_unheld(self, address: Address, loc: Loc) -> None:
        kind = "virtual" if self._pair else "aliases"
        around = self._around(address)
        place = f" of network {quote(around[0].name)}" if around else " of a network"
        what = f"the appliance does not hold {address}, so nothing arrives there"
        self._faults.add(loc, what, f"add it to '{kind}'{place}")

    def _check_free(
        self, address: Address, network: str, service: VirtualService, loc: Loc
    ) -> None:
        """A single node serves SSH and metrics on its own addresses itself."""
        first = self._networks[network].addresses
        own = {a.ip for some in first.values() for a in some}
        for what, (networks, port) in self._open.items():
            ranges = service.ranges(Protocol.TCP)
            if address in own and network in networks and any(_in(r, port) for r in ranges):
                hint = "use an alias for the service"
                self._faults.add(loc, f"tcp/{port} of {address} is the node's own {what}", hint)

    # Real servers

    def _check_families(
        self, what: str, addresses: Sequence[Address], service: VirtualService, loc: Loc
    ) -> None:
        if not self._faults.intact(*loc, "address"):
            return
        for version in (4, 6):
            count = sum(address.version == version for address in addresses)
            at = (*loc, "address")
            if version in service.versions and count == 0:
                self._faults.add(at, f"the {what} has no IPv{version} address, but the service has")
            elif version not in service.versions and count:
                if self._faults.intact("virtual_services", service.name, "address"):
                    said = f"the {what} has an IPv{version} address, but the service has none"
                    self._faults.add(at, said)
            elif count > 1:
                self._faults.add(at, f"the {what} has more than one IPv{version} address")

    def _check_target(self, address: Address, service: VirtualService, loc: Loc) -> None:
        """A host that packets for the service can be sent to, and whose answers pass as they must.

        With NAT they come back through here; what is sent directly finds only its own link.
        """
        around = self._around(address)
        if link_local(address):
            what = f"{address} is a link-local address: nothing tells on which link"
            self._faults.add(loc, what)
        elif address in self._virtual or address in self._owners:
            self._faults.add(loc, f"{address} is an address of the appliance itself")
        elif not around:
            if service.forward is not Forward.TUNNEL and self._known:
                self._check_off_link(address, service, loc)
        elif around[0].role is not Role.TRAFFIC:
            what = f"{address} is in network {quote(around[0].name)}, which has role "
            self._faults.add(loc, f"{what}{around[0].role}: no traffic goes there")
        elif not is_host(address, prefix := _prefix(address, around[0])):
            self._faults.add(loc, f"{address} is no host's address in {prefix}")
        elif service.forward is Forward.NAT and self._pair:
            self._check_gateway(address, around[0], loc)

    def _check_gateway(self, address: Address, network: Network, loc: Loc) -> None:
        """The servers' answers need a way back through whichever node is active."""
        if self._known and not any(a.version == address.version for a in network.virtual):
            what = f"network {quote(network.name)} has no virtual IPv{address.version} address"
            hint = "behind NAT the servers need one as their gateway: a node's own is gone with it"
            self._faults.warn(loc, what, hint)

    def _check_off_link(self, address: Address, service: VirtualService, loc: Loc) -> None:
        if service.forward is Forward.NAT:
            what = f"{address} is on no link of the site: with NAT its answers must come back here"
        else:
            what = f"{address} is on no link of the site: directly only a link's hosts are reached"
        self._faults.add(loc, what, "write 'forward: tunnel' for servers that are farther away")

    def _around(self, address: Address) -> list[Network]:
        """The networks on whose link the address is."""
        all_of = self._networks.values()
        return [n for n in all_of if any(_lies_in(address, p) for p in n.prefixes())]


def _opened(site: Site) -> dict[str, tuple[tuple[str, ...], int]]:
    """What a node serves on its own addresses: in which networks, and on which TCP port."""
    ssh, metrics = site.management.ssh, site.management.metrics
    found = {"SSH": (ssh.from_, SSH_PORT)} if ssh else {}
    return found | ({"metrics": (metrics.from_, metrics.port)} if metrics else {})


def _in(ports: PortRange, port: int) -> bool:
    return ports.first <= port <= ports.last


def _lies_in(address: Address, prefix: Prefix) -> bool:
    return prefix.version == address.version and address in prefix


def _prefix(address: Address, network: Network) -> Prefix:
    """The widest of the network's prefixes around the address: others are of single addresses."""
    around = [p for p in network.prefixes() if _lies_in(address, p)]
    return min(around, key=lambda prefix: prefix.prefixlen)
