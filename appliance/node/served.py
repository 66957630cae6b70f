"""The virtual services of this node at a moment, for `appliance-status` and the metrics: what the
site says of them, what IPVS does with them, and what the agent has kept of their servers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from appliance.node import balancing, checks, ipvs, servers
from appliance.node.balancing import Balancing, Service
from appliance.node.checks import Verdict, Verdicts
from appliance.node.ipvs import Table
from appliance.node.servers import Seen, State

Told = dict[str, Any]


def gather(
    root: Path,
    state: Mapping[str, Any] | None,
    *,
    table: Callable[[], Table] | None = None,
    ask: Callable[[], Verdicts] = checks.recent,
) -> Told | None:
    """None where the site has no virtual service. `state` is what the agent wrote; on a site of
    one node there is none, and the journal is asked when a server is out.
    """
    site = balancing.read(root / balancing.PATH.relative_to("/"))
    if site is None:
        return None
    try:
        found = (table or ipvs.table)()
    except OSError as error:
        return {"trouble": f"IPVS cannot be asked: {error}", "services": []}
    kept = ((state or {}).get("ipvs") or {}).get("servers")
    known = _kept(kept) if kept is not None else _asked(site, found, ask)
    return {"trouble": None, "services": list(_services(site, found, known))}


def _kept(told: Iterable[Told]) -> Verdicts:
    """The failures that the agent knows of."""
    return {
        (each["mark"], ip_address(each["address"])): Verdict(
            up=False, since=each["since"], why=each["why"]
        )
        for each in told
        if each["state"] == State.DOWN
    }


def _asked(site: Balancing, table: Table, ask: Callable[[], Verdicts]) -> Verdicts:
    all_of = (each for _, _, seen in servers.look(site, table) for each in seen)
    return ask() if any(each.doubtful for each in all_of) else {}


def _services(site: Balancing, table: Table, known: Verdicts) -> Iterator[Told]:
    for service, version, seen in servers.look(site, table):
        mark = service.marks[version]
        found = table.by_mark.get((version, mark))
        yield {
            "name": service.name,
            "version": version,
            "mark": mark,
            "addresses": [str(each) for each in service.addresses if each.version == version],
            "scheduler": found.scheduler if found else None,
            "counts": asdict(found.counts) if found else None,
            "servers": [_server(each, known) for each in seen],
            "sorry": _sorry(service, found),
        }


def _server(seen: Seen, said: Verdicts) -> Told:
    entry, verdict = seen.entry, said.get(seen.key)
    state = seen.state(verdict)
    return {
        "address": str(seen.key[1]),
        "names": [str(each) for each in seen.server.addresses],
        "state": state,
        **servers.why(state, None, verdict),
        "drained": seen.drained,
        "weight": entry.weight if entry else None,
        "active": entry.active if entry else 0,
        "inactive": entry.inactive if entry else 0,
        "persistent": entry.persistent if entry else 0,
        "counts": asdict(entry.counts) if entry else None,
    }


def _sorry(service: Service, found: ipvs.Service | None) -> list[str]:
    """Those sorry servers that are at work."""
    entries = {each.address: each.weight for each in found.servers} if found else {}
    return [str(each) for each in service.sorry if entries.get(each)]


def problems(told: Told | None) -> Iterator[str]:
    """What is wrong with the services of this node."""
    if told is None:
        return
    if told["trouble"]:
        yield told["trouble"]
    for service in told["services"]:
        if not any(each["state"] == State.UP for each in service["servers"]):
            sorry = ": its sorry server answers" if service["sorry"] else ""
            yield f"virtual service {label(service)} has no server{sorry}"


def label(service: Mapping[str, Any]) -> str:
    """The service and its IP version."""
    return f"{service['name']} (IPv{service['version']})"


def text(told: Told | None) -> Iterator[str]:
    """The services for a person, a line for each and for each of its servers."""
    for service in told["services"] if told else ():
        where = ", ".join(service["addresses"])
        rate = (service["counts"] or {}).get("connections_rate", 0)
        scheduler = service["scheduler"] or "not there"
        yield f"  {label(service)} at {where}, {scheduler}, {rate} new connections/s"
        yield from (f"    {each['address']:<15} {words(each)}" for each in service["servers"])
        yield from (f"    {each:<15} sorry server, at work" for each in service["sorry"])


def words(server: Told) -> str:
    """What becomes of a server, in a line."""
    weight = "" if server["weight"] is None else f", weight {server['weight']}"
    drained = ", drained" if server["drained"] and server["state"] != State.DRAINED else ""
    counts = (
        f"; {server['active']} active, {server['inactive']} inactive,"
        f" {server['persistent']} persistent"
    )
    rates = _rates(server["counts"]) if server["counts"] else ""
    why = f": {server['why']}" if server["why"] else ""
    return f"{server['state']}{weight}{drained}{counts}{rates}{why}"


def _rates(counts: Mapping[str, int]) -> str:
    packets = f"{counts['packets_in_rate']} in and {counts['packets_out_rate']} out"
    return f"; {counts['connections_rate']} new/s, packets {packets}/s"
