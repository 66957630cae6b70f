"""What the agents have to know, rendered to /etc/appliance/agent.json."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, fields
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

Address = IPv4Address | IPv6Address

PATH = Path("/etc/appliance/agent.json")
BUSY = Path("/run/appliance/busy")

# UDP, between the nodes' own addresses on the sync networks. conntrackd's is registered with
# nobody, but what its manual uses; ours follow it.
CONNTRACKD_PORT, AGENT_PORT, EXPECTATIONS_PORT = STATE_PORTS = (3780, 3781, 3782)


@dataclass(frozen=True, slots=True)
class Link:
    """One sync network: our card in it, our own address and the peer's."""

    interface: str
    own: Address
    peer: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The fields without a default, and `preempt`, differ from site to site; times are in seconds.

    `virtual` are the addresses that only the active node holds; `links` the sync networks, the
    preferred one first; `cards` those of the networks with virtual addresses; `peers` the addresses
    that the peer's adverts come from, each `advert_s`. The gate (see `gate.py`) ends after `gate_s`
    in any case, and after `absent_s` when nothing is heard of the peer. `forget_s` is how long a
    standby keeps what it knew as the active node. `announce` and `hand_over` switch the two cures
    for FTP (see `expectations.py`).
    """

    virtual: tuple[Address, ...]
    links: tuple[Link, ...]
    cards: tuple[str, ...]
    peers: tuple[Address, ...]
    advert_s: float
    preempt: bool = False
    announce: bool = True
    hand_over: bool = True
    group: str = "appliance"
    fifo: Path = Path("/run/appliance/keepalived.fifo")
    control: Path = Path("/run/conntrackd/control")
    state: Path = Path("/run/appliance/state.json")
    handover: Path = Path("/run/appliance/handover")
    yields: Path = Path("/run/appliance/yields")
    busy: Path = BUSY
    expectations: Path = Path("/run/appliance/expectations")
    expectations_state: Path = Path("/run/appliance/expectations.json")
    gate_s: float = 15.0
    absent_s: float = 3.0
    forget_s: float = 15.0


_NEEDED = {each.name for each in fields(Config) if each.default is MISSING}


def parse(text: str) -> Config:
    """The configuration from its JSON text; ValueError says what is wrong with it."""
    raw: dict[str, Any] = json.loads(text)
    known = {field.name: field.type for field in fields(Config)}
    unknown = sorted(raw.keys() - known.keys())
    missing = sorted(_NEEDED - raw.keys())
    if unknown or missing:
        raise ValueError(f"agent.json: unknown keys {unknown}, missing keys {missing}")
    return Config(**{name: _typed(known[name], value) for name, value in raw.items()})


def _typed(kind: object, value: Any) -> Any:
    """A JSON value as the type that the field is declared with."""
    if kind == "Path":
        return Path(value)
    if kind == "tuple[Address, ...]":
        return tuple(ip_address(each) for each in value)
    if kind == "tuple[Link, ...]":
        return tuple(_link(**each) for each in value)
    if kind == "tuple[str, ...]":
        return tuple(value)
    return value


def _link(interface: str, own: str, peer: str) -> Link:
    return Link(interface, ip_address(own), ip_address(peer))
