"""Who serves the nodes themselves: log hosts, time servers, name servers, and the way to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from appliance.plan.addressing import is_host, link_local
from appliance.plan.model import Address, LogHost, Network, Servers
from appliance.site.document import Loc
from appliance.site.faults import Faults
from appliance.site.schema import Site

MOST_NAME_SERVERS = 3  # MAXNS in glibc's resolv.h: it never asks the others
MOST_LOG_HOSTS = 7  # MAX_JOURNAL in rsyslog's imjournal.c is 8 readers, of which one is its own


def servers(site: Site, networks: Mapping[str, Network], faults: Faults) -> Servers:
    """The servers as stated; a fault for each that the nodes could not reach."""
    stated, loc = site.management, ("management",)
    ways = _Ways(networks, faults)
    hosts = tuple(LogHost(each.address, each.port, each.protocol) for each in stated.syslog)
    ntp, dns = stated.ntp or (), stated.dns or ()
    ways.check("log host", [each.address for each in hosts], (*loc, "syslog"), "address")
    ways.check("time server", ntp, (*loc, "ntp"))
    ways.check("name server", dns, (*loc, "dns"))
    for i, host in enumerate(hosts):
        if host in hosts[:i]:
            faults.add((*loc, "syslog", i), "this log host is given twice")
    for key, addresses in (("ntp", ntp), ("dns", dns)):
        for i, address in enumerate(addresses):
            if address in addresses[:i]:
                faults.add((*loc, key, i), f"{address} is given twice")
    if len(hosts) > MOST_LOG_HOSTS:
        what = f"{len(hosts)} log hosts: rsyslog cannot serve more than {MOST_LOG_HOSTS}"
        faults.add((*loc, "syslog"), what, key=True)
    if len(dns) > MOST_NAME_SERVERS:
        what = f"{len(dns)} name servers: no more than {MOST_NAME_SERVERS} would be asked"
        faults.add((*loc, "dns"), what, key=True)
    return Servers(hosts, ntp, dns)


class _Ways:
    """What the nodes can reach, and the addresses that are their own."""

    def __init__(self, networks: Mapping[str, Network], faults: Faults) -> None:
        self._faults = faults
        all_of = networks.values()
        self._links = {prefix for each in all_of for prefix in each.prefixes()}
        self._routes = [route.to for each in all_of for route in each.routes]
        self._gateways = {hop.version for each in all_of for hop in each.gateways}
        self._own = {address.ip for each in all_of for address in each.held()}
        # Only where all of it was understood does it say what is out of reach.
        self._known = faults.networks_intact("addresses", "gateway", "routes")

    def check(self, what: str, addresses: Iterable[Address], loc: Loc, *key: str) -> None:
        """A fault for each address, at `loc` with its number and `key`, that is out of reach."""
        for i, address in enumerate(addresses):
            if wrong := self._wrong(address):
                self._faults.add((*loc, i, *key), f"{what} {address} {wrong[0]}", wrong[1])

    def _wrong(self, address: Address) -> tuple[str, str | None] | None:
        if link_local(address):
            return "is a link-local address: nothing tells on which link", None
        if address in self._own:
            return "is an address of the appliance itself", None
        around = [each for each in self._links if address in each]
        if not all(is_host(address, each) for each in around):
            return f"is no host's address in {around[0]}", None
        far = not around and not any(address in each for each in self._routes)
        if far and address.version not in self._gateways and self._known:
            hint = f"give a network on its way a route, or a gateway for IPv{address.version}"
            return "is out of reach: it is on no link, and no way leads there", hint
        return None
