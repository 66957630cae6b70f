"""The virtual services of a site, as `appliance status` shows them: a table for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from appliance.node.events import Role
from appliance.node.facts import Facts, at
from appliance.node.served import label
from appliance.operate.status import Report

_COLOURS = {"up": "green", "down": "bold red", "drained": "yellow", "aside": "yellow"}
_COUNTS = ("active", "inactive", "persistent")

Told = Mapping[str, Any]


def tables(report: Report) -> Iterator[Table]:
    """One for each service and IP version; counts are of the active node, through which all goes,
    and each node has its own checks.
    """
    nodes = {name: each for name, each in report.nodes.items() if isinstance(each, dict)}
    leading = next((each for each in nodes.values() if _leads(each)), None)
    for service in at(leading, "balancing", "services") or ():
        others = {name: _same(each, service) for name, each in nodes.items()}
        yield _table(service, others)


def _leads(facts: Facts) -> bool:
    return not facts["pair"] or at(facts, "state", "role") == Role.MASTER


def _same(facts: Facts, service: Told) -> Told | None:
    """The same service on another node."""
    listed = at(facts, "balancing", "services") or ()
    return next((each for each in listed if each["mark"] == service["mark"]), None)


def _table(service: Told, nodes: Mapping[str, Told | None]) -> Table:
    where = ", ".join(service["addresses"])
    rate = at(service, "counts", "connections_rate") or 0
    title = Text(f"{label(service)} at {where}: {service['scheduler']}, {rate} new/s")
    table = Table("server", *nodes, *_COUNTS, "new/s", "why", title=title)
    for server in service["servers"]:
        said = [_server(each, server["address"]) for each in nodes.values()]
        counts = (str(server[each]) for each in _COUNTS)
        rate = at(server, "counts", "connections_rate") or 0
        why = dict.fromkeys(each["why"] for each in said if each and each["why"])
        # What programs say is text: rich would take [...] in it for markup.
        words = Text("; ".join(why))
        table.add_row(server["address"], *map(_state, said), *counts, str(rate), words)
    for each in service["sorry"]:
        table.add_row(each, "sorry server, at work")
    return table


def _server(service: Told | None, address: str) -> Told | None:
    listed = service["servers"] if service else ()
    return next((each for each in listed if each["address"] == address), None)


def _state(server: Told | None) -> Text:
    if server is None:
        return Text("-")
    weight = "" if server["weight"] is None else f" {server['weight']}"
    drained = " drained" if server["drained"] and server["state"] != "drained" else ""
    return Text(f"{server['state']}{weight}{drained}", style=_COLOURS.get(server["state"], ""))
