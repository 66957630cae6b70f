"""Take a server out of a virtual service of a site that runs, on all its nodes, and back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.errors import ToolError
from appliance.node.events import Role
from appliance.node.facts import at
from appliance.node.servers import State
from appliance.operate import status
from appliance.plan.model import Address, Plan
from appliance.plan.virtual import RealServer, VirtualService
from appliance.remote import Remote, at_once

_COMMAND = "appliance-drain"
_LOOK_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Left:
    """What a server still has, by IPVS of the active node."""

    active: int
    inactive: int
    persistent: int

    @property
    def connections(self) -> int:
        """Those that are open, or were a moment ago."""
        return self.active + self.inactive


@dataclass(frozen=True, slots=True)
class Drained:
    """Which nodes know of it; in the place of one that does not, why."""

    service: str
    server: str
    nodes: Mapping[str, ToolError | None]

    @property
    def troubles(self) -> tuple[ToolError, ...]:
        """Of the nodes that do not know."""
        return tuple(each for each in self.nodes.values() if each)


def find(plan: Plan, service: str, server: str) -> tuple[VirtualService, RealServer]:
    """By the service's name and any address of the server; ToolError says which there are."""
    services = {each.name: each for each in plan.virtual_services}
    if service not in services:
        hint = f"it has: {', '.join(services)}" if services else None
        raise ToolError(f"site {plan.site} has no virtual service '{service}'", hint)
    found = services[service]
    for each in found.servers:
        if server in map(str, each.addresses):
            return found, each
    names = ", ".join(str(each.addresses[0]) for each in found.servers)
    raise ToolError(f"virtual service '{service}' has no server '{server}'", f"it has: {names}")


def check(nodes: Mapping[str, Remote], service: VirtualService, server: RealServer) -> None:
    """Refuse what would cut connections: below its quorum a service goes over to its sorry server,
    and keepalived then takes its real servers away, the drained one first. A node that is rebooted
    begins with the sorry server unless there is the hysteresis more.
    """
    if not service.sorry:
        return
    told = status_of(nodes)
    others = [each for each in service.servers if each is not server]
    for version in service.versions:
        working = (s for s in others if _works(told, service, s.address(version)))
        left = sum(each.weight for each in working)
        if left < service.begins_at:
            what = f"the servers that are left of '{service.name}' weigh {left}"
            hint = "its sorry server would take over, and the connections be cut"
            raise ToolError(f"{what}, and it needs {service.begins_at}", hint)


def _works(told: list[dict[str, Any]], service: VirtualService, address: Address) -> bool:
    """Whether no node says otherwise: one of them takes over from the other."""
    every = (each for facts in told for each in _servers(facts, service))
    seen = [each for each in every if each["address"] == str(address)]
    return all(each["state"] == State.UP and not each["drained"] for each in seen)


def status_of(nodes: Mapping[str, Remote]) -> list[dict[str, Any]]:
    """What the nodes that are reached say of themselves."""
    told = at_once(nodes, lambda node: node.ask(*status.STATUS))
    return [each for each in told.values() if isinstance(each, dict)]


def _servers(facts: Mapping[str, Any], service: VirtualService) -> Iterator[dict[str, Any]]:
    """A service's servers in all its IP versions, as a node tells of them."""
    for each in at(facts, "balancing", "services") or ():
        if each["name"] == service.name:
            yield from each["servers"]


def set_drained(
    nodes: Mapping[str, Remote], service: VirtualService, server: RealServer, *, drained: bool
) -> Drained:
    """On every node: a takeover is not to bring the server back. ToolError when none did it."""
    undo = [] if drained else ["--undo"]
    address = str(server.addresses[0])

    def tell(node: Remote) -> None:
        node.run(_COMMAND, service.name, address, *undo)

    told = at_once(nodes, tell)
    done = Drained(service.name, address, told)
    if len(done.troubles) == len(nodes):
        raise done.troubles[0]
    return done


def left(nodes: Mapping[str, Remote], service: VirtualService, server: RealServer) -> Left | None:
    """What the server still has; None when no active node tells."""
    names = set(map(str, server.addresses))
    for facts in status_of(nodes):
        if facts["pair"] and at(facts, "state", "role") != Role.MASTER:
            continue
        found = [each for each in _servers(facts, service) if names & set(each["names"])]
        if found:
            keys = ("active", "inactive", "persistent")
            return Left(*(sum(each[key] for each in found) for key in keys))
    return None


def watch(look: Callable[[], Left | None], wait_s: float) -> Iterator[Left | None]:
    """What is left, now and then, until there is nothing or the time is up."""
    deadline = time.monotonic() + wait_s
    while True:
        found = look()
        yield found
        if (found and not found.connections) or time.monotonic() >= deadline:
            return
        time.sleep(min(_LOOK_EVERY_S, max(0.0, deadline - time.monotonic())))  # poll
