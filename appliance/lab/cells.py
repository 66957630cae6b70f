"""What a load consists of: each kind of traffic over each way through the pair."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

from appliance.plan.model import Address


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

    @property
    def busy(self) -> bool:
        """Whether it sends all the time; the others are silent until the stop."""
        return self in _BUSY

    @property
    def transfers(self) -> bool:
        """Whether it has data connections, and so a mode."""
        return self in _TRANSFERS


_BUSY = {Kind.SSH, Kind.TCP, Kind.UDP, Kind.DOWNLOAD, Kind.UPLOAD}
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
    client connects to: with destination NAT not the server's own.
    """

    name: str
    client: str
    server: str
    to: Address


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
    kinds: Iterable[Kind] = tuple(Kind),
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
