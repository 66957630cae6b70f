"""What a node's kernel balances over, as /proc/net/ip_vs has it (ip_vs_info_seq_show in the
kernel's ip_vs_ctl.c).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address

from appliance.plan.model import Address, Plan
from appliance.plan.virtual import VirtualService

TABLE = "/proc/net/ip_vs"

_SERVICE = re.compile(r"FWM +([0-9A-F]{8}) ")
_SERVER = re.compile(r" +-> +(?:\[([0-9a-f:]+)\]|([0-9A-F]{8})):[0-9A-F]{4} +\S+ +([0-9]+) ")

Balanced = Mapping[int, Mapping[Address, int]]


def read(table: str) -> Balanced:
    """The weight of each server, by the firewall mark of its service."""
    found: dict[int, dict[Address, int]] = {}
    servers: dict[Address, int] = {}
    for line in table.splitlines():
        if service := _SERVICE.match(line):
            servers = found.setdefault(int(service[1], 16), {})
        elif server := _SERVER.match(line):
            six, four, weight = server.groups()
            address = IPv6Address(six) if six else IPv4Address(int(four, 16))
            servers[address] = int(weight)
    return found


def weights(balanced: Balanced, service: VirtualService) -> dict[Address, int]:
    """The weights of one service's servers, of both IP versions."""
    marks = service.marks.values()
    return {host: weight for mark in marks for host, weight in balanced.get(mark, {}).items()}


def missing(balanced: Balanced, plan: Plan, ailing: Collection[Address]) -> Iterator[str]:
    """The real servers that get nothing new although they should; nothing is expected of those
    `ailing`.
    """
    for service in plan.virtual_services:
        there = weights(balanced, service)
        for server in service.servers:
            for address in server.addresses if server.weight else ():
                if address not in ailing and not there.get(address):
                    yield f"{service.name} does without {address}"
