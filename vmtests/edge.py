"""The site with everything, edge.yaml, and what runs through its pair."""

from __future__ import annotations

from ipaddress import ip_address

from appliance.lab import load
from appliance.lab.load import Cell, Kind, Mode, Path
from appliance.lab.pair import Lab
from vmtests.balanced import cells, example, named

SITE, PLAN = example("edge")
CLIENTS, HOST = 8, "wan-clients"
FOUR, SIX = named(PLAN, "web").addresses

# Through the firewall beside the services, behind source NAT and without any.
WAYS = (
    Path("out by IPv4", "lan", "wan", ip_address("198.51.100.1")),
    Path("out by IPv6", "lan", "wan-2", ip_address("2001:db8:1::1")),
)
KINDS = (Kind.SSH, Kind.SSH_IDLE, Kind.DOWNLOAD, Kind.HELD, Kind.NEXT)


def sessions(pair: Lab, *, full: bool) -> tuple[Cell, ...]:
    """Over each service from some addresses of both IP versions, and through the firewall."""
    client = pair.hosts[HOST]
    few = [each for version in (4, 6) for each in client.addresses(version)[: 4 if full else 1]]
    modes = tuple(Mode) if full else (Mode.PORT, Mode.EPRT)
    return (
        *(c for service in PLAN.virtual_services for c in cells(service, HOST, few, full=full)),
        *load.cells(WAYS, KINDS, modes),
    )
