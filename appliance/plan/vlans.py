"""Network cards, and the tagged networks that share one (IEEE 802.1Q)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from appliance.plan.model import Network, Vlan
from appliance.site.faults import Faults
from appliance.site.schema import Network as Stated
from appliance.site.schema import Site
from appliance.site.words import meant, quote


def vlan(stated: Stated) -> Vlan | None:
    """What the file says of a tag."""
    return Vlan(stated.vlan.on, stated.vlan.id) if stated.vlan else None


def interfaces(site: Site) -> dict[str, str]:
    """Each network's interface, by network; empty where the file has none that was understood.

    That of a tagged one is named after its id, with a number besides where another card has the
    same id. Not the usual `eth0.30`: in a sysctl key a dot parts the words.
    """
    used: Counter[int] = Counter()
    found: dict[str, str] = {}
    for name, stated in site.networks.items():
        if stated.vlan is None:
            found[name] = stated.interface or ""
            continue
        tag = stated.vlan.id
        used[tag] += 1
        found[name] = f"vlan{tag}" if used[tag] == 1 else f"vlan{tag}-{used[tag]}"
    return found


def check_vlans(site: Site, networks: Mapping[str, Network], faults: Faults) -> None:
    """Every network has one interface of its own, and a tag where it shares a card."""
    for name, stated in site.networks.items():
        _check_one_of_two(name, stated, faults)
    _check_carriers(networks, faults)
    _check_tags(networks, faults)
    _check_interfaces(networks, faults)


def _check_one_of_two(name: str, stated: Stated, faults: Faults) -> None:
    loc = ("networks", name)
    if stated.interface and stated.vlan:
        what = f"network {quote(name)} has an interface and a vlan"
        faults.add((*loc, "vlan"), what, "leave one out", key=True)
    elif not faults.stated(*loc, "interface") and not faults.stated(*loc, "vlan"):
        what = f"key 'interface' is missing in networks.{name}"
        faults.add(loc, what, "or 'vlan', for a tagged network", key=True)


def _check_carriers(networks: Mapping[str, Network], faults: Faults) -> None:
    names = faults.names("networks")
    for name, network in networks.items():
        if network.vlan is None:
            continue
        loc, on = ("networks", name, "vlan", "on"), network.vlan.on
        if on not in names:
            faults.add(loc, f"unknown network {quote(on)}", meant(on, names))
        elif on in networks and networks[on].vlan:
            what = f"network {quote(on)} has no card: it is a vlan itself"
            faults.add(loc, what, "name the network that has the card")


def _check_tags(networks: Mapping[str, Network], faults: Faults) -> None:
    users: dict[Vlan, str] = {}
    for name, network in networks.items():
        if network.vlan and users.setdefault(network.vlan, name) != name:
            first = quote(users[network.vlan])
            what = f"vlan {network.vlan.tag} on {quote(network.vlan.on)} is already network {first}"
            faults.add(("networks", name, "vlan", "id"), what)


def _check_interfaces(networks: Mapping[str, Network], faults: Faults) -> None:
    users: dict[str, str] = {}
    for name, network in networks.items():
        interface = network.interface
        if interface and users.setdefault(interface, name) != name:
            first = quote(users[interface])
            what = f"interface {quote(interface)} is already that of network {first}"
            faults.add(("networks", name, "vlan" if network.vlan else "interface"), what)
