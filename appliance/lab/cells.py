"""What a load consists of: each kind of traffic over each way through the pair."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

from appliance.lab.serving import STANDARD, Application, Port
from appliance.plan.model import Address
from appliance.plan.virtual import VirtualService


class Kind(StrEnum):
    """A kind of traffic, and with FTP the phase in which a fault finds it."""

    SSH = "ssh"
    SSH_IDLE = "ssh idle"
    HANDSHAKE = "tcp handshake only"
    TCP = "tcp"
    UDP = "udp"
    FTP_IDLE = "ftp idle"
    DOWNLOAD = "ftp download"
    UPLOAD = "ftp upload"
    NEXT = "ftp next"
    HELD = "ftp held"
    HTTP = "http kept"
    SMTP = "smtp"

    @property
    def busy(self) -> bool:
        """Whether it sends all the time; the others are silent until the stop."""
        return self in _BUSY

    @property
    def transfers(self) -> bool:
        """Whether it has data connections, and so a mode."""
        return self in _TRANSFERS


# Behind a virtual service only: to a firewall it is TCP like others.
BALANCED = (Kind.HTTP, Kind.SMTP)
USUAL = tuple(kind for kind in Kind if kind not in BALANCED)

_BUSY = {Kind.SSH, Kind.TCP, Kind.UDP, Kind.DOWNLOAD, Kind.UPLOAD, Kind.HTTP, Kind.SMTP}
_TRANSFERS = {Kind.DOWNLOAD, Kind.UPLOAD, Kind.NEXT, Kind.HELD}


class Mode(StrEnum):
    """FTP's command for a data connection (RFC 959, RFC 2428)."""

    PASV = "PASV"
    EPSV = "EPSV"
    PORT = "PORT"
    EPRT = "EPRT"


_ANY_VERSION = (Mode.EPSV, Mode.EPRT)


@dataclass(frozen=True, slots=True, order=True)
class Path:
    """One way through the pair.

    `client` and `server` name the lab's hosts that open and answer; `to` is the address that the
    client connects to: with destination NAT not the server's own. Of a virtual service any real
    server answers, and `server` is the service's name. `source` is the client's address to connect
    from; None is whichever its routes choose.
    """

    name: str
    client: str
    server: str
    to: Address
    source: Address | None = None


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One flow of a load; `mode` only for the kinds that have data connections."""

    kind: Kind
    path: Path
    mode: Mode | None = None

    def __str__(self) -> str:
        mode = f" {self.mode}" if self.mode else ""
        return f"{self.kind}{mode}, {self.path.name}"


def cells(
    paths: Iterable[Path],
    kinds: Iterable[Kind] = USUAL,
    modes: Iterable[Mode] = tuple(Mode),
) -> tuple[Cell, ...]:
    """Every kind over every path, and those with data connections in every mode that the path's
    IP version has.
    """
    return tuple(
        Cell(kind, path, mode)
        for path, kind in product(paths, tuple(kinds))
        for mode in _modes(kind, path, tuple(modes))
    )


def _modes(kind: Kind, path: Path, wanted: tuple[Mode, ...]) -> tuple[Mode | None, ...]:
    if not kind.transfers:
        return (None,)
    return tuple(mode for mode in wanted if path.to.version == 4 or mode in _ANY_VERSION)


def balanced(
    service: VirtualService, client: str, source: Address | None = None
) -> tuple[Cell, ...]:
    """Every kind and mode that the ports of a virtual service carry, to each of its addresses.

    From `source`, if given, and then to those of its IP version only.
    """
    found: list[Cell] = []
    for to in service.addresses:
        if source is None or source.version == to.version:
            name = f"{service.name} at {to}" + (f" from {source}" if source else "")
            path = Path(name, client, service.name, to, source)
            found += cells([path], _carried(service), _opened(service))
    return tuple(found)


def _carried(service: VirtualService) -> tuple[Kind, ...]:
    return tuple(
        kind
        for kind, (spoken, number) in _SPOKEN.items()
        if _has(service, STANDARD[spoken][number])
        if spoken is not Application.FTP or service.ftp
    )


def _has(service: VirtualService, port: Port) -> bool:
    ranges = service.ranges(port.protocol)
    return any(ports.first <= port.number <= ports.last for ports in ranges)


def _opened(service: VirtualService) -> tuple[Mode, ...]:
    """Without active FTP the server opens no data connection."""
    return tuple(Mode) if service.ftp and service.ftp.active else (Mode.PASV, Mode.EPSV)


# What each kind needs: the application, and which of its usual ports.
_SPOKEN = {
    Kind.SSH: (Application.SSH, 0),
    Kind.SSH_IDLE: (Application.SSH, 0),
    Kind.HANDSHAKE: (Application.ECHO, 0),
    Kind.TCP: (Application.ECHO, 0),
    Kind.UDP: (Application.ECHO, 1),
    Kind.FTP_IDLE: (Application.FTP, 0),
    Kind.DOWNLOAD: (Application.FTP, 0),
    Kind.UPLOAD: (Application.FTP, 0),
    Kind.NEXT: (Application.FTP, 0),
    Kind.HELD: (Application.FTP, 0),
    Kind.HTTP: (Application.HTTP, 0),
    Kind.SMTP: (Application.SMTP, 0),
}
