"""networkd's files of a site read again: which addresses and routes a card is to have.

A networkd that reads changed files takes away what it has configured itself. What it had configured
before it was restarted may count as somebody else's, and stay (KeepConfiguration= in
systemd.network(5), ManageForeignRoutes= in networkd.conf(5)): that is taken away by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

FOLDER = "etc/systemd/network/"

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Card:
    """A network card's addresses with their prefix lengths, and its routes as (to, via)."""

    name: str
    addresses: frozenset[str]
    routes: frozenset[tuple[str, str]]


def cards(files: Mapping[str, str]) -> dict[str, Card]:
    """Each card that a site configures, by its name."""
    found = (_card(text) for path, text in files.items() if _is_network(path))
    return {card.name: card for card in found}


def _is_network(path: str) -> bool:
    return path.startswith(FOLDER) and path.endswith(".network")


def _card(text: str) -> Card:
    name, section, to = "", "", ""
    addresses, routes = set(), set()
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        key, _, value = line.partition("=")
        match section, key:
            case "Match", "Name":
                name = value
            case "Network", "Address":
                addresses.add(value)
            case "Network", "Gateway":
                routes.add(("default", value))
            case "Route", "Destination":
                to = value
            case "Route", "Gateway":
                routes.add((to, value))
    return Card(name, frozenset(addresses), frozenset(routes))


def gone(old: Mapping[str, str], new: Mapping[str, str]) -> list[Command]:
    """The commands that take away what only the old files have."""
    before, after = cards(old), cards(new)
    nothing = frozenset[str]()
    found: list[Command] = []
    for name, card in before.items():
        left = after.get(name, Card(name, nothing, frozenset()))
        found += _removals(name, card.addresses - left.addresses, card.routes - left.routes)
    return found


def _removals(
    name: str, addresses: frozenset[str], routes: frozenset[tuple[str, str]]
) -> Iterator[Command]:
    for to, via in sorted(routes):
        family = "-6" if ":" in via else "-4"
        yield ("ip", family, "route", "del", to, "via", via, "dev", name)
    for address in sorted(addresses):
        yield ("ip", "address", "del", address, "dev", name)


def missing(wanted: Mapping[str, str], told: list[dict[str, object]]) -> list[str]:
    """Addresses of the site that no card has yet; `told` is the answer of `ip -j address`."""
    here = {
        (link["ifname"], f"{each['local']}/{each['prefixlen']}")
        for link in told
        for each in link["addr_info"]  # type: ignore[attr-defined]
        if "local" in each
    }
    every = ((name, each) for name, card in cards(wanted).items() for each in card.addresses)
    return [f"{each} on {name}" for name, each in sorted(every) if (name, each) not in here]
