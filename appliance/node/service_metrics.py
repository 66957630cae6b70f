"""The metrics of the virtual services and of IPVS. Rates are for Prometheus to make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from appliance.node.facts import Facts, at
from appliance.node.metric import Read, Samples, counter, gauge, one
from appliance.node.servers import State

_OF_SERVICE = ("service", "ip")
_OF_SERVER = (*_OF_SERVICE, "server")
_KINDS = ("active", "inactive", "persistent")
_TABLES = ("connections", "templates")

Told = dict[str, Any]


def _services(facts: Facts) -> Iterator[tuple[tuple[str, ...], Told]]:
    for each in at(facts, "balancing", "services") or ():
        yield (each["name"], str(each["version"])), each


def _servers(facts: Facts) -> Iterator[tuple[tuple[str, ...], Told]]:
    for labels, service in _services(facts):
        for each in service["servers"]:
            yield (*labels, each["address"]), each


def _of_service(*path: str) -> Read:
    """A number of each service; none of one that IPVS does not have."""

    def read(facts: Facts) -> Samples:
        for labels, service in _services(facts):
            if (value := at(service, *path)) is not None:
                yield labels, float(value)

    return read


def _of_server(*path: str) -> Read:
    """A number of each server; none of one that IPVS does not have."""

    def read(facts: Facts) -> Samples:
        for labels, server in _servers(facts):
            if (value := at(server, *path)) is not None:
                yield labels, float(value)

    return read


def _up(facts: Facts) -> Samples:
    for labels, service in _services(facts):
        yield labels, float(sum(each["state"] == State.UP for each in service["servers"]))


def _states(facts: Facts) -> Samples:
    for labels, server in _servers(facts):
        yield from (((*labels, each), float(each == server["state"])) for each in State)


def _open(facts: Facts) -> Samples:
    for labels, server in _servers(facts):
        yield from (((*labels, kind), float(server[kind])) for kind in _KINDS)


def _entries(*path: str) -> Read:
    """Of connections and of templates."""

    def read(facts: Facts) -> Samples:
        for kind in _TABLES:
            if (value := at(facts, "state", *path, kind)) is not None:
                yield (kind,), float(value)

    return read


SERVICES = (
    gauge("service_servers_up", "Servers that get new connections.", _up, *_OF_SERVICE),
    counter(
        "service_connections",
        "Connections balanced.",
        _of_service("counts", "connections"),
        *_OF_SERVICE,
    ),
    gauge(
        "server_state",
        "1 for what becomes of the server's share of new connections.",
        _states,
        *_OF_SERVER,
        "state",
    ),
    gauge(
        "server_drained",
        "Whether an operator has taken the server out.",
        _of_server("drained"),
        *_OF_SERVER,
    ),
    gauge("server_weight", "Its weight in IPVS.", _of_server("weight"), *_OF_SERVER),
    gauge(
        "server_open_connections",
        "Its connections now; persistent are clients that are held to it.",
        _open,
        *_OF_SERVER,
        "kind",
    ),
    counter(
        "server_connections",
        "Connections that it was given.",
        _of_server("counts", "connections"),
        *_OF_SERVER,
    ),
    counter(
        "server_received_packets",
        "From clients to the server.",
        _of_server("counts", "packets_in"),
        *_OF_SERVER,
    ),
    counter(
        "server_sent_packets",
        "From the server to clients, with NAT.",
        _of_server("counts", "packets_out"),
        *_OF_SERVER,
    ),
    counter(
        "server_received_bytes",
        "From clients to the server.",
        _of_server("counts", "bytes_in"),
        *_OF_SERVER,
    ),
    counter(
        "server_sent_bytes",
        "From the server to clients, with NAT.",
        _of_server("counts", "bytes_out"),
        *_OF_SERVER,
    ),
    gauge("ipvs_entries", "Open connections and templates of IPVS here.", _entries("ipvs"), "kind"),
    gauge(
        "ipvs_difference_entries",
        "On the standby: those of IPVS here, less those of the peer.",
        _entries("ipvs", "difference"),
        "kind",
    ),
    gauge(
        "ipvs_replay_time_seconds",
        "When all of IPVS was sent to the peer last, in Unix time.",
        one("state", "ipvs", "replayed", "wall"),
    ),
    gauge(
        "ipvs_replay_duration_seconds",
        "How long that took.",
        one("state", "ipvs", "replayed", "seconds"),
    ),
)
