"""What the nodes' own programs have to know of the virtual services: etc/appliance/balancing.json,
and the files that drain servers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from appliance.node.balancing import (
    DRAINS,
    Balancing,
    Channel,
    Claim,
    RealServer,
    Service,
    text,
)
from appliance.plan.model import Pair, Plan
from appliance.plan.virtual import RealServer as PlannedServer
from appliance.plan.virtual import VirtualService
from appliance.render import addresses, balancing


def render(plan: Plan, node: str) -> str:
    """The text of etc/appliance/balancing.json."""
    services = tuple(map(_service, plan.virtual_services))
    channel = channel_of(plan, node, plan.pair) if plan.pair else None
    return text(Balancing(services, tuple(_claims(plan)), channel))


def _service(service: VirtualService) -> Service:
    servers = tuple(
        RealServer(each.addresses, each.weight, drain(service, each)) for each in service.servers
    )
    return Service(service.name, service.addresses, service.marks, servers, service.sorry)


def _claims(plan: Plan) -> Iterator[Claim]:
    """As the ruleset marks: IPVS does not show the marks of its connections."""
    for each in balancing.maps(plan):
        for e in each.elements:
            yield Claim(e.address, e.protocol, e.first, e.last, e.mark)


def channel_of(plan: Plan, node: str, pair: Pair) -> Channel:
    """Where the sync messages go: by the first sync network, in a group of its IP version."""
    ends = addresses.sync_links(plan, node, pair)[0]
    group = balancing.SYNC_GROUP[ends.own.version]
    number = pair.routers[0].vrid
    return Channel(ends.interface, ends.own, group, balancing.SYNC_PORT, number)


def drain(service: VirtualService, server: PlannedServer) -> Path:
    """The file that drains a server, of all its addresses, from this service."""
    return DRAINS / f"{service.name}-{server.addresses[0]}"


def drains(plan: Plan) -> Iterator[Path]:
    """All of them."""
    for service in plan.virtual_services:
        yield from (drain(service, each) for each in service.servers)
