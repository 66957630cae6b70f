"""The closed schema of the site file: every key there is, and nothing else."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

from pydantic import BeforeValidator, Field, model_validator

from appliance.plan.model import Action, Role, Transport
from appliance.site import values as v
from appliance.site.addresses import Element, Host, Match, OnLink, RouteTo
from appliance.site.balancing import VirtualService
from appliance.site.closed import BlankList, BlankMapping, Closed
from appliance.site.keys import PublicKey
from appliance.site.scalars import Many, Maybe, Some, found, refuse


class Node(Closed):
    """One appliance."""

    priority: v.Priority = 100


class Route(Closed):
    """A static route."""

    to: RouteTo
    via: Host


class Vlan(Closed):
    """Where a tagged network is."""

    on: v.Word
    id: v.Tag


class Network(Closed):
    """One network and the card that each node has in it."""

    # One of the two: which of them is missing, or too many, `appliance.plan.addressing` says.
    interface: Maybe[v.InterfaceName] = None
    vlan: Maybe[Vlan] = None
    role: v.RoleWord = Role.TRAFFIC
    addresses: Annotated[dict[str, Many[OnLink]], BlankMapping]
    aliases: Annotated[dict[str, Many[OnLink]], BlankMapping] = {}
    virtual: Many[OnLink] = ()
    gateway: Many[Host] = ()
    routes: Annotated[tuple[Route, ...], BlankList] = ()


class Ha(Closed):
    """How the pair is kept."""

    advert: v.Advert = 100
    preempt: v.Switch = False
    sync: Maybe[Some[v.Word]] = None
    vrid: v.Vrid = 51


class AddressSet(Closed):
    """Addresses under one name."""

    type: v.SetKindWord = v.SetKind.ADDRESS
    elements: Many[Element]


class _Matching(Closed):
    """What a rule looks at. Nothing would mean every packet: that must be said (from: any)."""

    from_: Maybe[v.Word] = Field(None, alias="from")
    to: Maybe[v.Word] = None
    source: Maybe[Match] = None
    destination: Maybe[Match] = None
    service: Maybe[Some[v.ServiceWord]] = None

    @model_validator(mode="before")
    @classmethod
    def _something(cls, value: object) -> object:
        if isinstance(value, dict) and value.keys() <= cls.keys().keys() - _Matching.keys():
            raise refuse("this would hold for every packet", "say 'from: any' if that is meant")
        return value


class Rule(_Matching):
    """One firewall rule."""

    limit: Maybe[v.RateWord] = None
    action: v.ActionWord = Action.ACCEPT
    comment: Maybe[v.Comment] = None


class Nat(_Matching):
    """One rewriting of addresses."""

    snat: Maybe[v.NatTarget] = None
    dnat: Maybe[v.NatTarget] = None


class LogSwitch(Closed):
    """Logging that is on."""

    limit: Maybe[v.RateWord] = None


def _log_switch(value: object) -> object:
    if isinstance(value, str):
        return {} if v.switch(value) else None
    if not isinstance(value, dict):
        raise refuse(f"expected true, false or {{limit: 10/s}}, found {found(value)}")
    return value


class Log(Closed):
    """What is logged."""

    dropped: Annotated[LogSwitch | None, BeforeValidator(_log_switch)] = None
    invalid: v.Switch = False


class Firewall(Closed):
    """The packet filter."""

    rules: Annotated[tuple[Rule, ...], BlankList] = ()
    log: Log = Log()


class Ssh(Closed):
    """Who may log in."""

    from_: Many[v.Word] = Field((), alias="from")
    keys_: Many[PublicKey] = Field((), alias="keys")


class Metrics(Closed):
    """Who may read the metrics."""

    from_: Some[v.Word] = Field(alias="from")
    port: v.OpenPort = 9100


class LogHost(Closed):
    """Where log lines go."""

    address: Host
    port: v.Port = 514
    protocol: v.TransportWord = Transport.UDP


class Management(Closed):
    """How the appliance is reached itself, and whom it asks and tells."""

    ssh: Ssh | None = None
    metrics: Metrics | None = None
    syslog: Annotated[tuple[LogHost, ...], BlankList] = ()
    ntp: Maybe[Some[Host]] = None
    dns: Maybe[Some[Host]] = None


class Hardware(Closed):
    """What real machines need to run."""

    firmware: Many[v.Firmware] = ()


class Expect(Closed):
    """One packet, and what must become of it."""

    from_: v.Word = Field(alias="from")
    source: Host
    to: Maybe[v.Word] = None
    destination: Host
    service: v.ServiceWord
    verdict: v.VerdictWord


class Site(Closed):
    """The whole file."""

    # With defaults, so that the rest is checked without them; `validate` asks for these.
    needed: ClassVar[tuple[str, ...]] = ("site", "nodes", "networks")

    site: v.SiteName = ""
    nodes: Annotated[dict[v.NodeName, Node], BlankMapping] = {}
    networks: Annotated[dict[v.NetworkName, Network], BlankMapping] = {}
    ha: Ha | None = None
    services: Annotated[dict[v.ServiceName, Some[v.ServiceWord]], BlankMapping] = {}
    sets: Annotated[dict[v.SetName, AddressSet], BlankMapping] = {}
    firewall: Firewall = Firewall()
    virtual_services: Annotated[dict[v.ServiceName, VirtualService], BlankMapping] = {}
    nat: Annotated[tuple[Nat, ...], BlankList] = ()
    management: Management = Management()
    hardware: Hardware = Hardware()
    expect: Annotated[tuple[Expect, ...], BlankList] = ()


def mapping_at(loc: tuple[str | int, ...]) -> type[Closed]:
    """The mapping of the schema that `loc` leads to."""
    kind: Any = Site
    for step in loc:
        kind = _inside(kind, step)
    kind = _without_none(kind)
    mapping: type[Closed] = kind
    return mapping


def _inside(kind: Any, step: str | int) -> Any:
    kind = _without_none(kind)
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    if get_origin(kind) is tuple:
        return get_args(kind)[0]
    return kind.keys()[step]


def _without_none(kind: Any) -> Any:
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) is Union or isinstance(kind, type(int | None)):
        kind = next(arg for arg in get_args(kind) if arg is not type(None))
    return kind
