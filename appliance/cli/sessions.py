"""`appliance sessions`: what runs through the active node, and what of it would outlive it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from appliance.cli.operating import Json, Site, Ssh, Via
from appliance.node.flows import Flow
from appliance.node.status import span
from appliance.operate.sessions import Session, Table, table
from appliance.remote import remotes
from appliance.site import load

_HEADS = ("protocol", "client", "server", "translated", "state", "helper", "left")


def sessions(
    site: Site,
    will_survive: Annotated[
        bool,
        typer.Option("--will-survive", help="Say which of them would survive a takeover now."),
    ] = False,
    via: Via = None,
    ssh: Ssh = "ssh",
    as_json: Json = False,
) -> None:
    """List the connections through the active node of SITE.

    With --will-survive each is compared with what the standby holds; those that a takeover would
    end come last, with the reason, and then the sum.
    """
    plan = load(site)
    found = table(plan, remotes(plan, ssh, via), verdicts=will_survive)
    if as_json:
        typer.echo(json.dumps(_document(found)))
        return
    for line in _lines(found, verdicts=will_survive):
        typer.echo(line)
    if found.trouble:
        typer.echo(f"appliance: {found.trouble}", err=True)


def _document(found: Table) -> dict[str, object]:
    listed = [each.as_json() for each in found.sessions]
    return {"active": found.active, "trouble": found.trouble, "sessions": listed}


def _lines(found: Table, *, verdicts: bool) -> Iterator[str]:
    ordered = sorted(found.sessions, key=lambda each: each.survives is False)
    last = "would survive" if verdicts else ""
    rows = [(*_row(each.flow), _verdict(each) if verdicts else "") for each in ordered]
    yield from _columns([(*_HEADS, last), *rows])
    if verdicts:
        live = [each for each in ordered if each.survives is not None]
        yield f"{sum(bool(each.survives) for each in live)} of {len(live)} would survive"


def _verdict(session: Session) -> str:
    if session.survives is None:
        return "it is over"
    return "yes" if session.survives else f"no: {session.reason}"


def _row(flow: Flow) -> tuple[str, ...]:
    client, server = _end(*flow["original"][:2]), _end(*flow["original"][2:])
    states = (flow["state"], flow["helper"] or "-", span(flow["timeout"]))
    return flow["protocol"], client, server, _translated(flow), *states


def _translated(flow: Flow) -> str:
    """What source and destination NAT made of it: an answer goes the other way round."""
    original, reply = flow["original"], flow["reply"]
    parts = []
    if reply[2:] != original[:2]:
        parts.append(f"from {_end(*reply[2:])}")
    if reply[:2] != original[2:]:
        parts.append(f"to {_end(*reply[:2])}")
    return " ".join(parts) or "-"


def _end(address: str, port: int) -> str:
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _columns(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Plain columns: a table of a hundred thousand lines is to take a second, not minutes."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
