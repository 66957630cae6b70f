"""What the program in a host is told to carry: one order for each kind of traffic.

The words are those of `appliance.lab.traffic`, which carries them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from appliance.lab import places, services
from appliance.lab.control import Shell

Order = Mapping[str, Any]
FTP = 21


def ssh(
    to: object, *, interval: float | None = 0.1, port: int = 22, source: object = None
) -> Order:
    """A character each `interval` seconds; None is an idle session."""
    stream = {"interval": interval, "size": 1, **bound(source)}
    return {"kind": "ssh", "to": str(to), "port": port, "key": places.KEY, **stream}


def tcp(
    to: object,
    *,
    interval: float | None = 0.05,
    port: int = 7,
    greeting: bool = True,
    source: object = None,
) -> Order:
    """100 bytes each `interval` seconds; without `greeting` none before it counts as standing."""
    stream = {"interval": interval, "size": 100, "greeting": greeting, **bound(source)}
    return {"kind": "tcp", "to": str(to), "port": port, **stream}


def udp(to: object, *, interval: float = 0.005, port: int = 7, source: object = None) -> Order:
    """A probe each `interval` seconds."""
    return {"kind": "udp", "to": str(to), "port": port, "interval": interval, **bound(source)}


def ping(to: object, *, interval: float = 0.02, source: object = None) -> Order:
    """An ICMP echo request each `interval` seconds."""
    return {"kind": "ping", "to": str(to), "port": 0, "interval": interval, **bound(source)}


def http(
    to: object,
    *,
    interval: float = 0.1,
    port: int = 80,
    kept: bool = False,
    source: object = None,
) -> Order:
    """A request each `interval` seconds: over a new connection, or all over one that is `kept`."""
    kind = "http kept" if kept else "http"
    return {"kind": kind, "to": str(to), "port": port, "interval": interval, **bound(source)}


def smtp(
    to: object, *, interval: float | None = 0.1, port: int = 25, source: object = None
) -> Order:
    """A command without effect each `interval` seconds, in one session."""
    return {"kind": "smtp", "to": str(to), "port": port, "interval": interval, **bound(source)}


def ftp(kind: str, to: object, **more: Any) -> Order:
    """FTP of a kind; what it needs besides differs."""
    return {"kind": kind, "to": str(to), "port": FTP, **more}


def bound(source: object) -> Order:
    """What has a flow leave from an address of its host's; None is whichever the routes choose."""
    return {} if source is None else {"source": str(source)}


def shared(host: Shell) -> dict[str, Order]:
    """The files that every host serves, as the orders name them."""
    lines = host.succeed(["cat", services.SHARED_DIGESTS]).splitlines()
    digests = {name: digest for digest, name in (line.split() for line in lines)}
    return {
        name: {"file": name, "size": size, "sha256": digests[name]}
        for name, size in services.SHARED_SIZES.items()
    }
