"""`appliance status`: how both nodes are, side by side."""

from __future__ import annotations

import json
from collections.abc import Callable

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from appliance.cli import services
from appliance.cli.operating import Json, Site, Ssh, Via
from appliance.errors import ToolError
from appliance.node import status as words
from appliance.node.facts import Facts, at
from appliance.operate.status import Report, look
from appliance.remote import remotes
from appliance.site import load

_COLOURS = {"MASTER": "bold green", "BACKUP": "cyan", "healthy": "green"}


def status(site: Site, via: Via = None, ssh: Ssh = "ssh", as_json: Json = False) -> None:
    """Ask the nodes of SITE over SSH how they are, and show them side by side.

    Exit code 0 when all is well, 1 when something is not, or a node is not reached.
    """
    plan = load(site)
    report = look(plan, remotes(plan, ssh, via))
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=1))
    else:
        show(report, Console(highlight=False))
    if not report.healthy:
        raise typer.Exit(1)


def show(report: Report, console: Console) -> None:
    """The picture that people see."""
    table = Table("", *report.nodes, title=f"{report.site}: {_verdict(report.healthy)}")
    for name, read in _ROWS.items():
        cells = [_cell(read, each) for each in report.nodes.values()]
        if any(cell not in ("", "-") for cell in cells):
            table.add_row(name, *(Text(cell, style=_COLOURS.get(cell, "")) for cell in cells))
    console.print(table)
    for service in services.tables(report):
        console.print(service)
    for each in report.problems:
        console.print(Text(f"problem: {each}", style="red"), soft_wrap=True)
    for each in report.notes:
        console.print(Text(f"note: {each}", style="yellow"), soft_wrap=True)


def _verdict(healthy: bool) -> str:
    return "healthy" if healthy else "not healthy"


def _cell(read: Callable[[Facts], str], told: Facts | ToolError) -> str:
    if isinstance(told, ToolError):
        return "not reached" if read is _health else "-"
    return read(told)


def _health(facts: Facts) -> str:
    return _verdict(facts["healthy"])


def _of_pair(read: Callable[[Facts], str]) -> Callable[[Facts], str]:
    """A row that a site of one node has not."""
    return lambda facts: read(facts) if facts["pair"] else ""


def _role(facts: Facts) -> str:
    return str(at(facts, "state", "role") or "?")


def _entries(facts: Facts) -> str:
    here = at(facts, "state", "entries")
    return f"{here['internal']} own, {here['external']} held" if here else "?"


def _ipvs(facts: Facts) -> str:
    told = at(facts, "state", "ipvs")
    return words.ipvs(told) if told else ""


def _alarms(facts: Facts) -> str:
    return ", ".join(at(facts, "state", "alarms") or ()) or "none"


def _units(facts: Facts) -> str:
    bad = [f"{unit} {is_now}" for unit, is_now in facts["units"].items() if is_now != "active"]
    return ", ".join(bad) or f"all {len(facts['units'])} active"


def _version(name: str) -> Callable[[Facts], str]:
    return lambda facts: str(facts["versions"][name] or "?")


_ROWS: dict[str, Callable[[Facts], str]] = {
    "is": _health,
    "role": _of_pair(_role),
    "for": _of_pair(lambda facts: words.span(facts["role_s"])),
    "last takeover": _of_pair(words.takeover),
    "connections": _of_pair(_entries),
    "sync": _of_pair(words.sync),
    "ipvs": _of_pair(_ipvs),
    "both active": _of_pair(words.both_active),
    "alarms": _of_pair(_alarms),
    "units": _units,
    "site file": lambda facts: str(facts["digest"])[:12],
    "image": words.image,
    "other image": words.other_image,
    "kernel": _version("kernel"),
    "keepalived": _of_pair(_version("keepalived")),
    "conntrackd": _of_pair(_version("conntrackd")),
}
