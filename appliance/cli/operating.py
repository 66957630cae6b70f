"""What the commands for a running site have in common: how its nodes are reached."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Site = Annotated[
    Path, typer.Argument(metavar="SITE", help="The site file (YAML).", show_default=False)
]
Via = Annotated[
    str | None,
    typer.Option(
        "--via",
        metavar="NETWORK",
        help="Reach the nodes on this network, not the first of management.ssh.from.",
    ),
]
Ssh = Annotated[
    str,
    typer.Option(
        "--ssh",
        metavar="COMMAND",
        envvar="APPLIANCE_SSH",
        help='The command instead of ssh, such as "ssh -F FILE".',
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
