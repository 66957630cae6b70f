"""systemd-networkd's files: every address and route static, and nothing done behind our back.

Sources: systemd.network(5) and networkd.conf(5) of systemd 257.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from appliance.plan.model import Network, Plan, Vlan

# networkd tidies away what it did not set itself; what keepalived sets is not its business.
FOREIGN = """\
[Network]
ManageForeignRoutes=no
ManageForeignRoutingPolicyRules=no
ManageForeignNextHops=no
"""


def render(plan: Plan, node: str, network: Network) -> str:
    """The text of the .network file of one network."""
    sections = [
        _section("Match", [("Name", network.interface)]),
        _section(
            "Network", [*_manners(network), *_tagged(plan, network), *_addresses(network, node)]
        ),
        *(
            _section("Route", [("Destination", each.to), ("Gateway", each.via)])
            for each in network.routes
        ),
    ]
    place = f"{PurePath(plan.file).name}:{network.origin.line}"
    return "\n".join([f"# {place} {network.name}", *sections])


def netdev(network: Network, vlan: Vlan) -> str:
    """The text of the .netdev file of a tagged network: a card on top of another."""
    kind = _section("NetDev", [("Name", network.interface), ("Kind", "vlan")])
    return "\n".join([kind, _section("VLAN", [("Id", vlan.tag)])])


def _manners(network: Network) -> Iterator[tuple[str, object]]:
    """A cable that is pulled, or not there yet, must cost neither addresses nor routes.

    An IPv6 address that is still being probed for duplicates cannot be sent from, which is a hole
    of one to two seconds when a node comes back: the site file has been checked for duplicates.
    """
    v6 = any(prefix.version == 6 for prefix in network.prefixes())
    yield "DHCP", "no"
    yield "IPv6AcceptRA", "no"
    yield "LinkLocalAddressing", "ipv6" if v6 else "no"
    if v6:
        yield "IPv6DuplicateAddressDetection", 0
    yield "LLMNR", "no"
    yield "MulticastDNS", "no"
    yield "KeepConfiguration", "yes"
    yield "ConfigureWithoutCarrier", "yes"
    yield "IgnoreCarrierLoss", "yes"


def _tagged(plan: Plan, network: Network) -> Iterator[tuple[str, object]]:
    for each in plan.networks.values():
        if each.vlan and each.vlan.on == network.name:
            yield "VLAN", each.interface


def _addresses(network: Network, node: str) -> Iterator[tuple[str, object]]:
    for each in [*network.addresses.get(node, ()), *network.aliases.get(node, ())]:
        yield "Address", each.with_prefixlen
    for gateway in network.gateways:
        yield "Gateway", gateway


def _section(name: str, lines: list[tuple[str, object]]) -> str:
    return "\n".join([f"[{name}]", *(f"{key}={value}" for key, value in lines), ""])
