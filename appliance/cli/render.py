"""`appliance render`: the files of every node, for a person to read or a tool to compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from appliance import tools
from appliance.cli.reading import read
from appliance.progress import step
from appliance.render import tree
from appliance.render.site import render as render_site
from appliance.verify import verify as verify_tree


def render(
    site: Annotated[Path, typer.Argument(help="The site file.", metavar="SITE")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to write <node>/<path> in.")
    ],
    verify: Annotated[
        bool, typer.Option("--verify", help="Let the programs that read the files check them.")
    ] = False,
) -> None:
    """Write the files of every node as they lie on it, all of them or none.

    The same site gives the same bytes. An earlier render in the folder is replaced in one step.
    """
    files = render_site(read(site))
    if verify:
        kit = tools.ensure()
        with step("Checking with nft, keepalived, conntrackd and sshd"):
            verify_tree(files, kit)
    tree.write(files, output)
    for node, of_node in files.items():
        for path in of_node:
            typer.echo(output / node / path)
