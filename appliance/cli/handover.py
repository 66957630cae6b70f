"""`appliance handover`: let the other node be the active one."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from appliance.cli.operating import Json, Site, Ssh, Via
from appliance.operate.handover import Handover, hand_over
from appliance.remote import remotes
from appliance.site import load


def handover(
    site: Site,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="NODE", help="Only if it is not the active node already."),
    ] = None,
    via: Via = None,
    ssh: Ssh = "ssh",
    as_json: Json = False,
) -> None:
    """Let the other node of SITE be the active one, without losing a connection.

    The active node refuses when its peer does not hold its connections. Returns when the other node
    says that it is active; exit code 1 when that does not come about.
    """
    plan = load(site)
    names = [node.name for node in plan.nodes]
    if to is not None and to not in names:
        raise typer.BadParameter(f"no node '{to}': one of {', '.join(names)}", param_hint="--to")
    done = hand_over(plan, remotes(plan, ssh, via), to)
    typer.echo(json.dumps(asdict(done)) if as_json else told(done))


def told(done: Handover) -> str:
    """What became of it, for a person."""
    if done.giver is None:
        return f"{done.taker} is active already: nothing to do"
    lines = [f"{done.giver} -> {done.taker}: {done.taker} says that it is active"]
    if done.released_ms is not None:
        lines.append(f"  {done.giver} let go of the addresses in {done.released_ms:.0f} ms")
    if done.gap_ms is not None:
        when = "after" if done.gap_ms >= 0 else "before"
        seen = f"(seen from {done.giver}, within 20 ms)"
        lines.append(f"  {done.taker} was active {abs(done.gap_ms):.0f} ms {when} that {seen}")
    if done.commit_ms is not None:
        lines.append(
            f"  {done.taker} had the connections in its kernel {done.commit_ms:g} ms later"
        )
    return "\n".join(lines)
