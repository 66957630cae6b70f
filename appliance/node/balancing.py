"""What the node has to know of its virtual services, rendered to /etc/appliance/balancing.json.

It is there wherever a site has any, also on a site of one node, which has no agent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from appliance.node.netlink import Address

PATH = Path("/etc/appliance/balancing.json")

# A file for each server that was ever drained: 1, and 0 afterwards. It outlives a reboot, and
# keepalived reads it. Its unit may look there (overlays/node).
DRAINS = Path("/var/lib/appliance/drain")


@dataclass(frozen=True, slots=True)
class Claim:
    """Packets of a service: to this address, by `protocol` (tcp or udp), to one of these ports."""

    address: Address
    protocol: str
    first: int
    last: int
    mark: int


@dataclass(frozen=True, slots=True)
class RealServer:
    """A server as the site has it; `drain` is the file that takes it out of service."""

    addresses: tuple[Address, ...]
    weight: int
    drain: Path

    def address(self, version: int) -> Address | None:
        """Its address of that IP version, if it has one."""
        return next((each for each in self.addresses if each.version == version), None)


@dataclass(frozen=True, slots=True)
class Service:
    """A virtual service as the site has it; `marks` by IP version."""

    name: str
    addresses: tuple[Address, ...]
    marks: Mapping[int, int]
    servers: tuple[RealServer, ...]
    sorry: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Channel:
    """Where IPVS's sync messages go: out of `interface`, from our `own` address there, to the
    `group` and `port`; those with another `sync_id` are not for the peer.
    """

    interface: str
    own: Address
    group: Address
    port: int
    sync_id: int


@dataclass(frozen=True, slots=True)
class Balancing:
    """All virtual services; `channel` is None where there is no peer to tell."""

    services: tuple[Service, ...]
    claims: tuple[Claim, ...]
    channel: Channel | None


def text(balancing: Balancing) -> str:
    """As JSON: addresses and paths as text."""
    return json.dumps(asdict(balancing), indent=2, default=str) + "\n"


def parse(written: str) -> Balancing:
    """What `text` has written."""
    raw: dict[str, Any] = json.loads(written)
    channel = raw["channel"]
    return Balancing(
        tuple(_service(**each) for each in raw["services"]),
        tuple(_claim(**each) for each in raw["claims"]),
        _channel(**channel) if channel else None,
    )


def read(path: Path = PATH) -> Balancing | None:
    """Of this node; None where the site has no virtual service."""
    try:
        return parse(path.read_text())
    except FileNotFoundError:
        return None


def _service(
    name: str,
    addresses: list[str],
    marks: dict[str, int],
    servers: list[dict[str, Any]],
    sorry: list[str],
) -> Service:
    by_version = {int(version): mark for version, mark in marks.items()}
    of_site = tuple(_server(**each) for each in servers)
    return Service(name, _addresses(addresses), by_version, of_site, _addresses(sorry))


def _server(addresses: list[str], weight: int, drain: str) -> RealServer:
    return RealServer(_addresses(addresses), weight, Path(drain))


def _claim(address: str, protocol: str, first: int, last: int, mark: int) -> Claim:
    return Claim(ip_address(address), protocol, first, last, mark)


def _channel(interface: str, own: str, group: str, port: int, sync_id: int) -> Channel:
    return Channel(interface, ip_address(own), ip_address(group), port, sync_id)


def _addresses(texts: list[str]) -> tuple[Address, ...]:
    return tuple(map(ip_address, texts))
