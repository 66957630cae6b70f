"""`appliance apply`: a changed site on nodes that run, without a reboot."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from appliance import tools
from appliance.cli.operating import Json, Site, Ssh, Via
from appliance.cli.reading import read
from appliance.image import keys as image_keys
from appliance.image import signing
from appliance.operate import apply as operation
from appliance.operate.apply import Proposal, Sign, Work
from appliance.plan.model import Plan
from appliance.remote import remotes
from appliance.render.site import render

SHORTEST_S, LONGEST_S = 5.0, 3600.0

_TIME = re.compile(r"(\d+(?:\.\d+)?)(s|m|min|h)?")
_UNITS = {None: 1, "s": 1, "m": 60, "min": 60, "h": 3600}


def seconds(text: str) -> float:
    """A time such as 60s, 2m or 90; BadParameter for anything else, or beyond the limits."""
    found = _TIME.fullmatch(text)
    value = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not SHORTEST_S <= value <= LONGEST_S:
        raise typer.BadParameter(f"'{text}' is not a time from {SHORTEST_S:g}s to {LONGEST_S:g}s")
    return value


def apply(
    site: Site,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; the nodes check it as well.")
    ] = False,
    confirm_within: Annotated[
        str,
        typer.Option(
            "--confirm-within",
            metavar="TIME",
            help="Each node goes back by itself unless it is confirmed in this time.",
        ),
    ] = "60s",
    keys: Annotated[
        Path | None, typer.Option(help="Sign with the keys that the image was built with.")
    ] = None,
    via: Via = None,
    ssh: Ssh = "ssh",
    as_json: Json = False,
) -> None:
    """Put a changed SITE in force on its nodes, without a reboot: the standby first.

    Every node checks it before anything changes, and has it on trial until it is confirmed over a
    new connection; else it goes back by itself. Exit code 1 when it does not come about.
    """
    limit = seconds(confirm_within)
    plan = read(site)
    with operation.talking(remotes(plan, ssh, via)) as nodes:
        proposal = operation.propose(plan, render(plan), nodes, _signer(keys))
        if not as_json:
            typer.echo(told(proposal))
        if proposal.work and not dry_run:
            operation.carry_out(proposal, nodes, limit)
            if not as_json:
                typer.echo(f"{_names(plan)}: site file {plan.digest[:12]} is in force, and kept")
    if as_json:
        typer.echo(json.dumps(_document(proposal, applied=not dry_run)))


def _signer(folder: Path | None) -> Sign | None:
    """Who signs with the keys in the folder."""
    if folder is None:
        return None
    by, kit = image_keys.load(folder), tools.ensure()
    return lambda text: signing.sign_text(text, by, kit)


def told(proposal: Proposal) -> str:
    """What is to be done, for a person."""
    plan = proposal.plan
    if not proposal.work:
        return f"{_names(plan)}: the site file {plan.digest[:12]} is in force already"
    lines = [line for each in proposal.work for line in _work(each, plan)]
    if proposal.apart:
        first = proposal.work[0].node
        lines.append(f"{first} stands aside meanwhile: the nodes would not hear each other")
    if proposal.hands_over:
        lines.append("a planned handover comes before the active node is changed")
    return "\n".join(lines)


def _work(work: Work, plan: Plan) -> list[str]:
    head = f"{work.node} ({work.role or 'one node'}): {work.before[:12]} -> {plan.digest[:12]}"
    files = [f"  write /{path}" for path in work.written]
    files += [f"  remove /{path}" for path in work.removed]
    steps = [f"  {step}" for step in work.steps] or ["  nothing has to read it anew"]
    return [head, *files, *steps, *(f"  NEEDS A REBOOT: {why}" for why in work.reboot)]


def _names(plan: Plan) -> str:
    return " and ".join(node.name for node in plan.nodes)


def _document(proposal: Proposal, *, applied: bool) -> dict[str, object]:
    return {
        "site": proposal.plan.site,
        "digest": proposal.plan.digest,
        "applied": applied,
        "work": [each.as_json() for each in proposal.work],
    }
