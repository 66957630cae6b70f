"""The site's address sets, and the ends of a rule: what nft keeps apart by IP version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from appliance.plan.model import AddressSet, End, Plan, Service, versions
from appliance.plan.services import has_version
from appliance.render import addresses, nft
from appliance.render.nft import Family

# A match for each end, and the services that there are in that IP version.
Case = tuple[list[nft.Part | None], tuple[Service, ...]]


def named(plan: Plan) -> list[nft.Set]:
    """A set of nft for each address set and each IP version that it has."""
    return [
        _of(each, version)
        for each in plan.sets
        for version in addresses.VERSIONS
        if version in versions(each)
    ]


def cases(
    source: End | None, destination: End | None, services: Sequence[Service]
) -> Iterator[Case]:
    """A rule's ends and services: once for each IP version that they allow, or once for both where
    no end is said.
    """
    if source is None and destination is None:
        yield [], tuple(services)
        return
    for version in sorted(versions(source) & versions(destination)):
        fitting = tuple(each for each in services if has_version(each, version))
        if fitting or not services:
            yield ends(source, destination, version), fitting


def ends(source: End | None, destination: End | None, version: int) -> list[nft.Part | None]:
    """The matches for source and destination among packets of one IP version."""
    return [
        nft.saddr(_held_against(source, version)) if source else None,
        nft.daddr(_held_against(destination, version)) if destination else None,
    ]


def _held_against(end: End, version: int) -> nft.Prefix | nft.Set:
    return _of(end, version) if isinstance(end, AddressSet) else end


def _of(stated: AddressSet, version: int) -> nft.Set:
    """The version in the name also keeps it apart from nft's own words, such as `accept`."""
    family = Family.IPV4 if version == 4 else Family.IPV6
    words = f"{stated.name} of the site, IPv{version}"
    return nft.Set(f"{stated.name}-{version}", family, stated.of(version), words, prefixes=True)
