"""The schema of `virtual_services`, less its checks."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

from appliance.plan.model import PortRange, Protocol, Service
from appliance.plan.virtual import Forward, OnFailure, Scheduler
from appliance.site import values as v
from appliance.site.addresses import Host
from appliance.site.checks import Check
from appliance.site.closed import BlankList, Closed
from appliance.site.scalars import Maybe, Some, found, one_of, refuse, scalar
from appliance.site.words import meant, quote

# A mark of IPv6 is that of IPv4 and this, so that no site can give one twice by accident.
LARGEST_MARK = 999_999

# keepalived takes at most 31 days (LVS_MAX_TIMEOUT in its global_data.h).
LONGEST_PERSISTENCE_S = 31 * 86_400


def _port_word(text: str) -> Service:
    name, slash, stated = text.partition("/")
    if not slash or name not in (Protocol.TCP, Protocol.UDP):
        near = meant(name, (Protocol.TCP, Protocol.UDP)) if slash else None
        hint = near or "write it as in tcp/80 or udp/5000-5100"
        raise refuse(f"{quote(text)} is no port of TCP or UDP", hint)
    return Service(Protocol(name), (v.ports(stated),))


def _persistence_time(text: str) -> int:
    matched = re.fullmatch(r"([0-9]{1,7})s", text)
    if not matched or not 1 <= int(matched[1]) <= LONGEST_PERSISTENCE_S:
        what = f"{quote(text)} is not a time from 1s to {LONGEST_PERSISTENCE_S}s in whole seconds"
        raise refuse(what)
    return int(matched[1])


def _netmask(value: object) -> object:
    return {"4": value} if isinstance(value, str) else value


def _persistence(value: object) -> object:
    """Off, a time alone, or the mapping."""
    if not isinstance(value, str) or not value:
        if not isinstance(value, dict):
            raise refuse(f"expected false, a time or {{time: 300s}}, found {found(value)}")
        return value
    if value.lower() in ("false", "no", "off"):
        return None
    if value.lower() in ("true", "yes", "on"):
        raise refuse("for how long?", "write it as in 300s")
    return {"time": value}


PortWord = Annotated[Service, scalar("a port", _port_word)]
PassiveRange = Annotated[PortRange, scalar("a range of ports", v.ports)]
Mark = Annotated[int, scalar("a number", v.number("mark", 1, LARGEST_MARK))]
Weight = Annotated[int, scalar("a number", v.number("weight", 0, 65535))]
Limit = Annotated[int, scalar("a number", v.number("limit", 1, 999_999_999))]
Quorum = Annotated[int, scalar("a number", v.number("quorum", 1, 999_999_999))]
Hysteresis = Annotated[int, scalar("a number", v.number("hysteresis", 0, 999_999_999))]
SchedulerWord = Annotated[Scheduler, one_of("a scheduler", Scheduler)]
ForwardWord = Annotated[Forward, one_of("a way to forward", Forward)]
OnFailureWord = Annotated[OnFailure, one_of("an answer to failure", OnFailure)]
PersistenceTime = Annotated[int, scalar("a time", _persistence_time)]
Length4 = Annotated[int, scalar("a number", v.number("netmask", 1, 32))]
Length6 = Annotated[int, scalar("a number", v.number("netmask", 1, 128))]


class Netmask(Closed):
    """How many bits of a client's address tell it from others, for each IP version."""

    four: Maybe[Length4] = Field(None, alias="4")
    six: Maybe[Length6] = Field(None, alias="6")


class Persistence(Closed):
    """How long a client stays on its server."""

    time: PersistenceTime
    netmask: Annotated[Netmask, BeforeValidator(_netmask)] = Netmask()


class Ftp(Closed):
    """Where data connections go."""

    passive: PassiveRange
    active: v.Switch = False


class Server(Closed):
    """One real server."""

    address: Some[Host]
    weight: Weight = 1
    limit: Maybe[Limit] = None


class Sorry(Closed):
    """Who answers when nobody else can."""

    address: Some[Host]


class VirtualService(Closed):
    """One balanced service."""

    address: Some[Host]
    ports: Some[PortWord]
    mark: Maybe[Mark] = None
    scheduler: Maybe[SchedulerWord] = None
    forward: ForwardWord = Forward.NAT
    persistence: Annotated[Persistence | None, BeforeValidator(_persistence)] = None
    ftp: Maybe[Ftp] = None
    check: Check = Check()
    quorum: Quorum = 1
    hysteresis: Hysteresis = 0
    on_failure: OnFailureWord = OnFailure.REMOVE
    servers: Annotated[tuple[Server, ...], BlankList]
    sorry: Maybe[Sorry] = None
