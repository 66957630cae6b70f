"""Address sets, and which packets the ends of a rule leave possible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from appliance.plan.model import Address, AddressSet, End, Prefix, versions
from appliance.site.addresses import SetName
from appliance.site.document import Loc
from appliance.site.faults import Faults
from appliance.site.schema import Site
from appliance.site.words import meant, quote

# The ends that a rule has, by their keys in the file.
Ends = Mapping[str, End | Address | None]


class Sets:
    """The address sets of a site, by name."""

    def __init__(self, site: Site, faults: Faults) -> None:
        self._faults = faults
        self._names = faults.names("sets")
        self._sets: dict[str, AddressSet] = {}
        for name, stated in site.sets.items():
            loc: Loc = ("sets", name, "elements")
            if not stated.elements and faults.intact(*loc):
                what = f"set {quote(name)} is empty: what names it would never match"
                faults.add(loc, what, key=True)
            elif stated.elements:
                self._sets[name] = AddressSet(name, _merged(stated.elements))

    def all(self) -> tuple[AddressSet, ...]:
        """Every set, in the order of the file."""
        return tuple(self._sets.values())

    def end(self, stated: Prefix | SetName | None, loc: Loc) -> End | None:
        """What a rule says of one end, its set looked up; None also for one that is not known."""
        if not isinstance(stated, SetName):
            return stated
        if stated.name not in self._names:
            what = f"unknown address set {quote(stated.name)}"
            self._faults.add(loc, what, meant(stated.name, self._names))
        return self._sets.get(stated.name)


def common_versions(ends: Ends, loc: Loc, faults: Faults) -> frozenset[int]:
    """The IP versions that all ends can have; a fault, and none, if no packet fits them all."""
    left = versions(None)
    for n, (key, end) in enumerate(ends.items()):
        left &= versions(end)
        if not left:
            before = list(ends.items())[:n]
            clash = next(each for each in before if not versions(each[1]) & versions(end))
            faults.add((*loc, key), mixed(clash, (key, end)))
            break
    return left


def mixed(one: tuple[str, End | Address | None], other: tuple[str, End | Address | None]) -> str:
    """Words for two ends of different IP versions."""
    parts = [f"{key} is IPv{min(versions(end))}" for key, end in (one, other)]
    return f"{parts[0]}, but {parts[1]}: no packet is both"


def _merged(elements: Iterable[Prefix]) -> tuple[Prefix, ...]:
    """The same addresses by as few prefixes as do, in order."""
    four = [each for each in elements if isinstance(each, IPv4Network)]
    six = [each for each in elements if isinstance(each, IPv6Network)]
    return (*collapse_addresses(four), *collapse_addresses(six))
