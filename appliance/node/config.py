"""What the agent has to know, rendered to /etc/appliance/agent.json."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

Address = IPv4Address | IPv6Address

PATH = Path("/etc/appliance/agent.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Only `virtual` and `sync_interface` differ from site to site; all times are in seconds.

    `virtual` are the addresses that only the active node holds. The gate (see `gate.py`) ends after
    `gate_s` in any case, and after `absent_s` when nothing is heard of the peer. `forget_s` is how
    long a standby keeps what it knew as the active node.
    """

    virtual: tuple[Address, ...]
    sync_interface: str
    preempt: bool = False
    group: str = "appliance"
    fifo: Path = Path("/run/appliance/keepalived.fifo")
    control: Path = Path("/run/conntrackd/control")
    state: Path = Path("/run/appliance/state.json")
    handover: Path = Path("/run/appliance/handover")
    gate_s: float = 15.0
    absent_s: float = 3.0
    forget_s: float = 15.0


def parse(text: str) -> Config:
    """The configuration from its JSON text; ValueError says what is wrong with it."""
    raw: dict[str, Any] = json.loads(text)
    known = {field.name: field.type for field in fields(Config)}
    unknown = sorted(raw.keys() - known.keys())
    missing = sorted({"virtual", "sync_interface"} - raw.keys())
    if unknown or missing:
        raise ValueError(f"agent.json: unknown keys {unknown}, missing keys {missing}")
    return Config(**{name: _typed(known[name], value) for name, value in raw.items()})


def _typed(kind: object, value: Any) -> Any:
    """A JSON value as the type that the field is declared with."""
    if kind == "Path":
        return Path(value)
    if kind == "tuple[Address, ...]":
        return tuple(ip_address(each) for each in value)
    return value
