"""`appliance upgrade`: a new image for the nodes of a site that runs."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from appliance.cli.handover import told as handover_told
from appliance.cli.operating import Json, Site, Ssh, Via
from appliance.operate import payload as payloads
from appliance.operate.upgrade import Upgrade, words
from appliance.plan.model import Plan
from appliance.remote import remotes
from appliance.site import load

Payload = Annotated[
    str,
    typer.Argument(
        metavar="PAYLOAD",
        help="The folder SITE_VERSION.update of a build, or its https:// address for the nodes.",
    ),
]
Node = Annotated[
    str | None, typer.Option("--node", metavar="NODE", help="This node alone; not the active one.")
]


def upgrade(
    site: Site,
    payload: Payload,
    *,
    node: Node = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Ask the nodes, say what would be done, and end.")
    ] = False,
    stage: Annotated[
        bool, typer.Option("--stage", help="Only write it to the node that is to try it first.")
    ] = False,
    allow_older: Annotated[
        bool, typer.Option("--allow-older", help="Also an image that is older than what runs.")
    ] = False,
    via: Via = None,
    ssh: Ssh = "ssh",
    as_json: Json = False,
) -> None:
    """Give the nodes of SITE the image of PAYLOAD, without losing a connection.

    The standby first, on trial; then a handover, and the other. When a node does not find the new
    image good, the site goes back to the old one. Called again it goes on where it was interrupted.
    """
    plan = load(site)
    _check_node(plan, node)
    nodes = remotes(plan, ssh, via)
    run = Upgrade(
        *(plan, nodes, payloads.read(payload)), only=node, allow_older=allow_older, stage=stage
    )
    if dry_run:
        _tell_plan(run, as_json=as_json)
        return
    run.run()
    typer.echo(json.dumps(run.report()) if as_json else told(run))


def _check_node(plan: Plan, node: str | None) -> None:
    names = [each.name for each in plan.nodes]
    if node is not None and node not in names:
        raise typer.BadParameter(f"no node '{node}': one of {', '.join(names)}", param_hint="NODE")


def _tell_plan(run: Upgrade, *, as_json: bool) -> None:
    steps = run.foresee()
    if as_json:
        typer.echo(json.dumps([{"act": each.act, "node": each.node} for each in steps]))
        return
    for number, each in enumerate(steps, 1):
        typer.echo(f"{number}. {words(each, run.payload)}")
    if not steps:
        typer.echo(_nothing(run))


def told(run: Upgrade) -> str:
    """What was done, for a person: a handover has a gap, and nothing else has."""
    if not run.steps:
        return _nothing(run)
    lines = [handover_told(each) for each in run.handovers]
    whole = sum(seconds for _, seconds in run.steps)
    names = ", ".join(dict.fromkeys(step.node for step, _ in run.steps))
    where = f"in the other slot of {names}" if run.stage else f"on {names}"
    return "\n".join([*lines, f"version {run.payload.version} {where}, in {whole:.0f} s"])


def _nothing(run: Upgrade) -> str:
    there = "is there" if run.stage else "runs"
    return f"version {run.payload.version} {there} already: nothing to do"
