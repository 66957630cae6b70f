"""What IPVS balances now, over its generic netlink family (linux/ip_vs.h, ip_vs_genl_* in the
kernel's ip_vs_ctl.c): services known by their marks, their servers, and the sync daemons.

The kernel answers only who has CAP_NET_ADMIN. There is no family where the module is not loaded.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET, AF_INET6, socket

from appliance.node.balancing import Channel
from appliance.node.ctnetlink import NESTED, attribute
from appliance.node.netlink import Address, attributes, connect, dump, order

_GENERIC = 16  # NETLINK_GENERIC
_CONTROL, _GET_FAMILY = 16, 3  # GENL_ID_CTRL, CTRL_CMD_GETFAMILY
_FAMILY_ID, _FAMILY_NAME = 1, 2  # CTRL_ATTR_*
_HEADER = struct.Struct("=BBH")  # struct genlmsghdr: command, version, reserved
_NAME, _VERSION = b"IPVS\0", 1

# IPVS_CMD_*
_GET_SERVICE, _GET_DEST, _NEW_DAEMON, _DEL_DAEMON, _GET_DAEMON = 4, 8, 9, 10, 11
_SERVICE, _DEST, _DAEMON = 1, 2, 3  # IPVS_CMD_ATTR_*


class StoppedError(Exception):
    """Nobody wants to know any more."""


class _Svc(IntEnum):
    """IPVS_SVC_ATTR_*."""

    AF = 1
    FWMARK = 5
    SCHED_NAME = 6
    FLAGS = 7
    TIMEOUT = 8
    STATS64 = 12


class _Dest(IntEnum):
    """IPVS_DEST_ATTR_*."""

    ADDR = 1
    FWD_METHOD = 3
    WEIGHT = 4
    ACTIVE_CONNS = 7
    INACT_CONNS = 8
    PERSIST_CONNS = 9
    ADDR_FAMILY = 11
    STATS64 = 12


class _Daemon(IntEnum):
    """IPVS_DAEMON_ATTR_*."""

    STATE = 1
    MCAST_IFN = 2
    SYNC_ID = 3
    MCAST_GROUP = 5
    MCAST_GROUP6 = 6


class Sync(IntFlag):
    """Which way a sync daemon works: IP_VS_STATE_*."""

    MASTER = 1
    BACKUP = 2


_PERSISTENT = 0x1  # IP_VS_SVC_F_PERSISTENT


@dataclass(frozen=True, slots=True)
class Counts:
    """Since the service or server is there; the rates are a second's, as the kernel estimates them
    (a moving average over some 8 s, ip_vs_est.c). In the order of IPVS_STATS_ATTR_*.
    """

    connections: int = 0
    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    connections_rate: int = 0
    packets_in_rate: int = 0
    packets_out_rate: int = 0
    bytes_in_rate: int = 0
    bytes_out_rate: int = 0


@dataclass(frozen=True, slots=True)
class Server:
    """A destination. `forward` is how packets get there, IP_VS_CONN_F_*; `active` and `inactive`
    are its connections, `persistent` its templates. `stats` are the kernel's, read when asked for.
    """

    address: Address
    weight: int
    forward: int
    active: int
    inactive: int
    persistent: int
    stats: bytes

    @property
    def counts(self) -> Counts:
        """`stats`, read anew each time."""
        return _counts(self.stats)


@dataclass(frozen=True, slots=True)
class Service:
    """What one mark leads to; `persistence` in seconds, if it has any; `stats` as of a server."""

    version: int
    mark: int
    scheduler: str
    persistence: int | None
    stats: bytes
    servers: tuple[Server, ...]

    @property
    def counts(self) -> Counts:
        """`stats`, read anew each time."""
        return _counts(self.stats)


@dataclass(frozen=True, slots=True)
class Daemon:
    """A sync daemon: its network card, and the id that its messages bear."""

    state: Sync
    interface: str
    sync_id: int


@dataclass(frozen=True)
class Table:
    """All of IPVS but its connections; what is made of it is made once."""

    services: tuple[Service, ...]
    daemons: tuple[Daemon, ...]

    @cached_property
    def connections(self) -> int:
        """Those that are open, by the servers' counters: no list is read for it."""
        return sum(each.active for s in self.services for each in s.servers)

    @cached_property
    def templates(self) -> int:
        """Clients whom persistence holds to a server."""
        return sum(each.persistent for s in self.services for each in s.servers)

    @cached_property
    def by_mark(self) -> Mapping[tuple[int, int], Service]:
        """The services by IP version and mark."""
        return {(each.version, each.mark): each for each in self.services}


def table(stop: Callable[[], bool] = lambda: False) -> Table:
    """As it is now; OSError when the kernel refuses, or has no IPVS.

    Each service takes a request: between two of them StoppedError is raised if `stop` says so.
    """
    with connect(_GENERIC) as link:
        number = family(link, _NAME)
        services = tuple(_services(link, number, stop))
        found = _dump(link, number, _GET_DAEMON)
        return Table(services, tuple(daemon(each) for each in found))


def start(channel: Channel, way: Sync) -> None:
    """Start a sync daemon, in the place of one that works otherwise; OSError when the kernel
    refuses, as while the card has no address.
    """
    group = _Daemon.MCAST_GROUP if channel.group.version == 4 else _Daemon.MCAST_GROUP6
    state = attribute(_Daemon.STATE, struct.pack("=I", way))
    body = (
        state
        + attribute(_Daemon.MCAST_IFN, channel.interface.encode() + b"\0")
        + attribute(_Daemon.SYNC_ID, struct.pack("=I", channel.sync_id))
        + attribute(group, channel.group.packed)
    )
    with connect(_GENERIC) as link:
        number = family(link, _NAME)
        try:
            _order(link, number, _NEW_DAEMON, body)
        except FileExistsError:
            _order(link, number, _DEL_DAEMON, state)
            _order(link, number, _NEW_DAEMON, body)


def _order(link: socket, number: int, command: int, body: bytes) -> None:
    order(link, number, _HEADER.pack(command, _VERSION, 0) + attribute(_DAEMON | NESTED, body))


def family(link: socket, name: bytes) -> int:
    """The number that the kernel gave to a family; OSError without it."""
    for payload in dump(link, _CONTROL, _HEADER.pack(_GET_FAMILY, 1, 0)):
        found = dict(attributes(payload[_HEADER.size :]))
        if found[_FAMILY_NAME] == name:
            return _number(found[_FAMILY_ID])
    raise OSError("the kernel has no IPVS")


def _services(link: socket, number: int, stop: Callable[[], bool]) -> Iterator[Service]:
    """Those with a mark; there are no others here."""
    for payload in list(_dump(link, number, _GET_SERVICE)):
        if stop():
            raise StoppedError
        of_service = _inside(payload, _SERVICE)
        if _Svc.FWMARK in of_service:
            servers = _dump(link, number, _GET_DEST, which(of_service))
            yield service(payload, tuple(map(server, servers)))


def _dump(link: socket, number: int, command: int, body: bytes = b"") -> Iterator[bytes]:
    return dump(link, number, _HEADER.pack(command, _VERSION, 0) + body)


def which(of_service: Mapping[int, bytes]) -> bytes:
    """The part of a request that says whose servers are wanted."""
    keys = (_Svc.AF, _Svc.FWMARK)
    return attribute(_SERVICE | NESTED, b"".join(attribute(key, of_service[key]) for key in keys))


def service(payload: bytes, servers: tuple[Server, ...]) -> Service:
    """From an answer to IPVS_CMD_GET_SERVICE (ip_vs_genl_fill_service)."""
    found = _inside(payload, _SERVICE)
    flags = _number(found[_Svc.FLAGS][:4])  # struct ip_vs_flags: flags, mask
    return Service(
        version=6 if _number(found[_Svc.AF]) == AF_INET6 else 4,
        mark=_number(found[_Svc.FWMARK]),
        scheduler=_text(found[_Svc.SCHED_NAME]),
        persistence=_number(found[_Svc.TIMEOUT]) if flags & _PERSISTENT else None,
        stats=found[_Svc.STATS64],
        servers=servers,
    )


def server(payload: bytes) -> Server:
    """From an answer to IPVS_CMD_GET_DEST (ip_vs_genl_fill_dest)."""
    found = _inside(payload, _DEST)
    return Server(
        address=_address(found),
        weight=_number(found[_Dest.WEIGHT]),
        forward=_number(found[_Dest.FWD_METHOD]),
        active=_number(found[_Dest.ACTIVE_CONNS]),
        inactive=_number(found[_Dest.INACT_CONNS]),
        persistent=_number(found[_Dest.PERSIST_CONNS]),
        stats=found[_Dest.STATS64],
    )


def daemon(payload: bytes) -> Daemon:
    """From an answer to IPVS_CMD_GET_DAEMON (ip_vs_genl_fill_daemon)."""
    found = _inside(payload, _DAEMON)
    name, number = _text(found[_Daemon.MCAST_IFN]), _number(found[_Daemon.SYNC_ID])
    return Daemon(Sync(_number(found[_Daemon.STATE])), name, number)


def _inside(payload: bytes, kind: int) -> dict[int, bytes]:
    """The attributes within the one attribute that a message has."""
    return dict(attributes(dict(attributes(payload[_HEADER.size :]))[kind]))


def _address(found: Mapping[int, bytes]) -> Address:
    """A union nf_inet_addr: 16 bytes, of which IPv4 takes the first four."""
    raw = found[_Dest.ADDR]
    if _number(found[_Dest.ADDR_FAMILY]) == AF_INET:
        return IPv4Address(raw[:4])
    return IPv6Address(raw)


def _counts(raw: bytes) -> Counts:
    """STATS64: ten numbers of 64 bits; padding attributes between them bear none."""
    found = dict(attributes(raw))
    return Counts(*(_number(found[kind]) for kind in range(1, 11)))


def _number(raw: bytes) -> int:
    """Of 16, 32 or 64 bits, in the machine's order."""
    return int(struct.unpack({2: "=H", 4: "=I", 8: "=Q"}[len(raw)], raw)[0])


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode()
