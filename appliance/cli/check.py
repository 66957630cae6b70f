"""`appliance check`: is this site file right?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.reading import read
from appliance.errors import Problem, SiteError
from appliance.plan.model import Network, Plan, Role
from appliance.site import load


def check(
    site: Annotated[
        Path, typer.Argument(metavar="SITE", help="The site file (YAML).", show_default=False)
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON document.")
    ] = False,
) -> None:
    """Check a site file and show every mistake in it, each with its line and column.

    Exit code 0 for a good file, 2 for one with mistakes. Warnings do not change it.
    """
    if as_json:
        _check_for_machines(site)
    else:
        typer.echo(summary(read(site)))


def _check_for_machines(site: Path) -> None:
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    try:
        warnings = load(site).warnings
    except SiteError as wrong:
        problems = wrong.problems
    result = {
        "file": str(site),
        "ok": not problems,
        "problems": [problem.as_json() for problem in problems],
        "warnings": [warning.as_json() for warning in warnings],
    }
    typer.echo(json.dumps(result, indent=2))
    if problems:
        raise typer.Exit(2)


def summary(plan: Plan) -> str:
    """The site in a few lines: what a person wants to see confirmed."""
    nodes = " and ".join(node.name for node in plan.nodes)
    kind = f"a pair of {nodes}" if plan.pair else f"one node, {nodes}"
    nat = len(plan.source_nat) + len(plan.destination_nat)
    services = len(plan.virtual_services)
    counted = [
        (len(plan.rules), "rule"),
        (nat, "NAT entry"),
        *([(services, "virtual service")] if services else []),
        (len(plan.expectations), "expectation"),
    ]
    lines = [
        f"{plan.file} is good: site {plan.site}, {kind}",
        *map(_network, plan.networks.values()),
    ]
    return "\n".join([*lines, "  " + ", ".join(_count(*each) for each in counted)])


def _network(network: Network) -> str:
    prefixes = ", ".join(str(prefix) for prefix in network.prefixes())
    virtual = ", ".join(str(address.ip) for address in network.virtual)
    role = f", {network.role}" if network.role is not Role.TRAFFIC else ""
    moving = f", virtual {virtual}" if virtual else ""
    return f"  {network.name} ({network.interface}): {prefixes}{role}{moving}"


def _count(number: int, noun: str) -> str:
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
