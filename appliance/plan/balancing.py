"""Virtual services: marks given, defaults chosen, and what could not work refused.

Whether addresses and real servers can play their part is asked in `appliance.plan.placing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from zlib import crc32

from appliance.plan.checks import check
from appliance.plan.model import Address, Network, PortRange, Protocol, Service
from appliance.plan.placing import Placing
from appliance.plan.virtual import (
    FTP_DATA,
    Forward,
    Ftp,
    Persistence,
    RealServer,
    Scheduler,
    VirtualService,
)
from appliance.site.balancing import LARGEST_MARK
from appliance.site.balancing import VirtualService as Stated
from appliance.site.document import Loc
from appliance.site.faults import Faults
from appliance.site.schema import Site
from appliance.site.words import quote

FTP_CONTROL = 21

# Where marks that the site does not give begin; and how far that of IPv6 is from that of IPv4.
FIRST_MARK = 100_000
TO_IPV6 = 1_000_000


def virtual_services(
    site: Site, networks: Mapping[str, Network], faults: Faults
) -> tuple[VirtualService, ...]:
    """Every virtual service that was understood, its faults noted."""
    placing = Placing(site, networks, faults)
    marks = _marks(site, faults)
    found = tuple(
        _service(name, stated, marks[name], faults)
        for name, stated in site.virtual_services.items()
    )
    for service in found:
        placing.check(service)
    _check_claims(found, faults)
    _check_data_connections(found, faults)
    return found


def _service(name: str, stated: Stated, mark: int, faults: Faults) -> VirtualService:
    loc: Loc = ("virtual_services", name)
    versions = frozenset[int](address.version for address in stated.address)
    persistence = (
        Persistence(stated.persistence.time, _lengths(stated, versions, loc, faults))
        if stated.persistence
        else None
    )
    ports = (*stated.ports, *_passive(stated, loc, faults))
    service = VirtualService(
        name=name,
        addresses=stated.address,
        ports=ports,
        marks={v: mark + (TO_IPV6 if v == 6 else 0) for v in sorted(versions)},
        forward=stated.forward,
        scheduler=_scheduler(stated, loc, faults),
        persistence=persistence,
        ftp=Ftp(stated.ftp.passive, stated.ftp.active) if stated.ftp else None,
        check=check(stated.check, stated.ports, (*loc, "check"), faults),
        quorum=stated.quorum,
        hysteresis=stated.hysteresis,
        on_failure=stated.on_failure,
        servers=tuple(_servers(stated, loc, faults)),
        sorry=stated.sorry.address if stated.sorry else (),
        origin=faults.origin(loc),
    )
    _check_weights(service, loc, faults)
    return service


def _servers(stated: Stated, loc: Loc, faults: Faults) -> Iterator[RealServer]:
    for i, server in enumerate(stated.servers):
        origin = faults.origin((*loc, "servers", i))
        yield RealServer(server.address, server.weight, server.limit, origin)


def _lengths(stated: Stated, versions: frozenset[int], loc: Loc, faults: Faults) -> dict[int, int]:
    """The bits of a client's address that count, for the IP versions that the service has."""
    assert stated.persistence is not None
    netmask = stated.persistence.netmask
    given = {4: netmask.four, 6: netmask.six}
    for version, length in given.items():
        if length is not None and version not in versions:
            at = (*loc, "persistence", "netmask", str(version))
            hint = "write it as in {6: 64}" if version == 4 else None
            what = f"a netmask of IPv{version}, but the service has no such address"
            faults.add(at, what, hint)
    return {version: length for version, length in given.items() if length is not None}


# Schedulers


def _scheduler(stated: Stated, loc: Loc, faults: Faults) -> Scheduler:
    """As stated; else mh for clients that must meet their server again, and wlc for others."""
    if stated.scheduler is None:
        return Scheduler.MH if stated.persistence or stated.ftp else Scheduler.WLC
    if stated.scheduler is Scheduler.MH:
        return stated.scheduler
    at = (*loc, "scheduler")
    if stated.ftp and not stated.persistence and faults.intact(*loc, "persistence"):
        what = f"with {stated.scheduler} an FTP data connection can meet another server"
        faults.add(at, what, "leave the scheduler out for mh, or add 'persistence'")
    elif stated.persistence:
        what = f"persistence with {stated.scheduler} does not outlive every takeover"
        hint = "a rebooted node does not know who was where; by mh both nodes choose alike"
        faults.warn(at, what, hint)
    return stated.scheduler


def _check_weights(service: VirtualService, loc: Loc, faults: Faults) -> None:
    if not service.servers:
        if faults.intact(*loc, "servers"):
            faults.add((*loc, "servers"), "a virtual service needs a server", key=True)
        return
    if not faults.intact(*loc, "servers"):
        return
    total = sum(server.weight for server in service.servers)
    if total == 0:
        faults.add((*loc, "servers"), "no server has a weight: none would be used", key=True)
    elif service.quorum > total:
        what = f"quorum {service.quorum} is more than all weights together, {total}"
        faults.add((*loc, "quorum"), what)
    if service.hysteresis >= service.quorum:
        what = f"hysteresis {service.hysteresis} is not less than the quorum, {service.quorum}"
        faults.add((*loc, "hysteresis"), what)
    elif service.quorum <= total < service.begins_at:
        what = f"the service begins at quorum and hysteresis together, {service.begins_at}"
        faults.add((*loc, "hysteresis"), f"{what}, and all weights are {total}")


# FTP


def _passive(stated: Stated, loc: Loc, faults: Faults) -> tuple[Service, ...]:
    """The ports of passive data connections, which are one service with the control port."""
    if stated.ftp is None:
        return ()
    control = [s for s in stated.ports if s.protocol is Protocol.TCP and _has(s, FTP_CONTROL)]
    if not control and faults.intact(*loc, "ports"):
        what = f"an FTP service has no tcp/{FTP_CONTROL} among its ports"
        faults.add((*loc, "ftp"), what, key=True)
    for version in (4, 6):
        if sum(address.version == version for address in stated.address) > 1:
            what = f"an FTP service has one IPv{version} address: its servers tell it to clients"
            faults.add((*loc, "address"), what)
    # Beyond NAT the server's own data connections have the client's half pass here.
    data = stated.ftp.active and stated.forward is not Forward.NAT
    more = (PortRange(FTP_DATA, FTP_DATA),) if data else ()
    return (Service(Protocol.TCP, (stated.ftp.passive, *more)),)


def _check_data_connections(services: Iterable[VirtualService], faults: Faults) -> None:
    """A server's data connections must come from the address that its client knows."""
    seen: dict[Address, str] = {}
    for service in services:
        if not (service.ftp and service.ftp.active and service.forward is Forward.NAT):
            continue
        for i, server in enumerate(service.servers):
            for n, address in enumerate(server.addresses):
                first = seen.setdefault(address, service.name)
                if first != service.name:
                    at = ("virtual_services", service.name, "servers", i, "address", n)
                    what = f"server {address} opens data connections for {quote(first)} as well"
                    hint = "nothing tells them apart: one of the two must be without 'active'"
                    faults.add(at, what, hint)


def _has(service: Service, port: int) -> bool:
    return any(ports.first <= port <= ports.last for ports in service.ports)


# Marks


def _marks(site: Site, faults: Faults) -> dict[str, int]:
    """A mark for every service, which stays the same whatever services are added or removed.

    It comes of the name; where two names meet, the later in the alphabet gets the next.
    """
    given: dict[int, str] = {}
    for name, stated in site.virtual_services.items():
        if stated.mark is None:
            continue
        first = given.setdefault(stated.mark, name)
        if first != name:
            line = faults.origin(("virtual_services", first, "mark")).line
            what = f"mark {stated.mark} is already that of virtual service {quote(first)}"
            faults.add(("virtual_services", name, "mark"), what, f"first in line {line}")
    marks = {s: site.virtual_services[s].mark for s in site.virtual_services}
    taken = set(given)
    for name in sorted(name for name, mark in marks.items() if mark is None):
        marks[name] = _free_mark(name, taken)
    return {name: mark for name, mark in marks.items() if mark is not None}


def _free_mark(name: str, taken: set[int]) -> int:
    room = LARGEST_MARK + 1 - FIRST_MARK
    begin = crc32(name.encode()) % room
    mark = next(m for i in range(room) if (m := FIRST_MARK + (begin + i) % room) not in taken)
    taken.add(mark)
    return mark


# Claims


def _check_claims(services: Iterable[VirtualService], faults: Faults) -> None:
    """One address, protocol and port leads to one service."""
    claimed: dict[tuple[object, Protocol], list[tuple[PortRange, str, Loc]]] = {}
    for service in services:
        for ports, protocol, loc in _claims(service):
            for address in dict.fromkeys(service.addresses):
                others = claimed.setdefault((address, protocol), [])
                clash = next((other for other in others if _overlap(other[0], ports)), None)
                if clash:
                    what = f"{protocol}/{_shown(ports)} of {address} is already served"
                    line = faults.origin(clash[2]).line
                    hint = f"by virtual service {quote(clash[1])}, line {line}"
                    faults.add(loc, what, hint)
                others.append((ports, service.name, loc))


def _claims(service: VirtualService) -> Iterator[tuple[PortRange, Protocol, Loc]]:
    base: Loc = ("virtual_services", service.name)
    stated = service.ports[:-1] if service.ftp else service.ports
    for i, each in enumerate(stated):
        for ports in each.ports:
            yield ports, each.protocol, (*base, "ports", i)
    for ports in service.ports[-1].ports if service.ftp else ():
        key = "active" if ports.first == FTP_DATA else "passive"
        yield ports, Protocol.TCP, (*base, "ftp", key)


def _overlap(one: PortRange, other: PortRange) -> bool:
    return one.first <= other.last and other.first <= one.last


def _shown(ports: PortRange) -> str:
    return str(ports.first) if ports.first == ports.last else f"{ports.first}-{ports.last}"
