"""The services of a rule, sorted for the kernel: one match for each protocol."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from appliance.plan.model import PortRange, Protocol, Service
from appliance.render import nft


@dataclass(frozen=True, slots=True)
class Match:
    """The packets of one protocol, or any packet where both are None."""

    protocol: Protocol | None
    part: nft.Part | None


def matches(services: Iterable[Service]) -> list[Match]:
    """One match for each protocol that the services name; no services match any packet."""
    by_protocol: dict[Protocol, list[Service]] = {}
    for service in services:
        by_protocol.setdefault(service.protocol, []).append(service)
    return [Match(each, _part(each, of)) for each, of in by_protocol.items()] or [Match(None, None)]


def _part(protocol: Protocol, services: list[Service]) -> nft.Part:
    """All ports of the protocol if one of its services names none."""
    if not all(service.ports for service in services):
        return nft.l4proto(protocol)
    return nft.dport(protocol, merged(port for service in services for port in service.ports))


def merged(ranges: Iterable[PortRange]) -> list[tuple[int, int]]:
    """The same ports in order, each once: nft refuses a set whose ranges overlap."""
    result: list[tuple[int, int]] = []
    for each in sorted(ranges):
        if result and each.first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(result[-1][1], each.last))
        else:
            result.append((each.first, each.last))
    return result
