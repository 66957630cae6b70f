"""`appliance drain` and `appliance undrain`: take a server out of a virtual service, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated

import typer

from appliance.cli.operating import Json, Site, Ssh, Via
from appliance.operate import drain as operation
from appliance.operate.drain import Drained, Left
from appliance.plan.virtual import RealServer, VirtualService
from appliance.remote import Remote, remotes
from appliance.site import load

Service = Annotated[str, typer.Argument(metavar="SERVICE", help="The virtual service.")]
Server = Annotated[str, typer.Argument(metavar="SERVER", help="An address of the server.")]
Wait = Annotated[
    float,
    typer.Option(
        "--wait",
        metavar="SECONDS",
        min=0.0,
        help="Wait until the server has no connection left, at most so long.",
    ),
]


def drain(
    site: Site,
    service: Service,
    server: Server,
    *,
    wait: Wait = 0.0,
    via: Via = None,
    ssh: Ssh = "ssh",
    as_json: Json = False,
) -> None:
    """Let a server of SITE get no new connections, on all nodes; it keeps those that it has.

    It lasts until undrain, beyond reboots. Exit code 1 when a node does not know of it, or when
    connections are left after the wait.
    """
    plan = load(site)
    chosen = operation.find(plan, service, server)
    nodes = remotes(plan, ssh, via)
    operation.check(nodes, *chosen)
    done = operation.set_drained(nodes, *chosen, drained=True)
    _tell_troubles(done)
    left = _await(nodes, chosen, wait, quiet=as_json)
    if as_json:
        typer.echo(json.dumps(_document(done, left)))
    if done.troubles or (wait and (left is None or left.connections)):
        raise typer.Exit(1)


def undrain(
    site: Site,
    service: Service,
    server: Server,
    *,
    via: Via = None,
    ssh: Ssh = "ssh",
    as_json: Json = False,
) -> None:
    """Let a server of SITE get new connections again, as soon as its checks are content.

    Exit code 1 when a node does not know of it.
    """
    plan = load(site)
    chosen = operation.find(plan, service, server)
    done = operation.set_drained(remotes(plan, ssh, via), *chosen, drained=False)
    _tell_troubles(done)
    told = f"{done.server} is back in {done.service}"
    typer.echo(json.dumps(_document(done, None)) if as_json else told)
    if done.troubles:
        raise typer.Exit(1)


def _await(
    nodes: Mapping[str, Remote],
    chosen: tuple[VirtualService, RealServer],
    wait: float,
    *,
    quiet: bool,
) -> Left | None:
    """Watch what is left, each change in a line; the last of it."""
    before: str | None = None
    left = None
    for left in operation.watch(lambda: operation.left(nodes, *chosen), wait):
        words = told(left)
        if words != before and not quiet:
            typer.echo(words)
        before = words
    return left


def told(left: Left | None) -> str:
    """What a server has left, for a person."""
    if left is None:
        return "no active node tells what is left"
    held = f"; {left.persistent} clients were held to it" if left.persistent else ""
    return f"{left.active} active connections and {left.inactive} inactive ones are left{held}"


def _tell_troubles(done: Drained) -> None:
    for each in done.troubles:
        typer.echo(f"appliance: {each}", err=True)


def _document(done: Drained, left: Left | None) -> dict[str, object]:
    counts = left and {
        "active": left.active,
        "inactive": left.inactive,
        "persistent": left.persistent,
    }
    nodes = {name: each.what if each else None for name, each in done.nodes.items()}
    return {"service": done.service, "server": done.server, "nodes": nodes, "left": counts}
