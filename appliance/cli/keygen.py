"""`appliance keygen`: the keys that a site's images and updates are signed with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from appliance import tools
from appliance.image import keys
from appliance.progress import step


def keygen(
    output: Annotated[Path, typer.Option("--output", "-o", help="A new folder for the keys.")],
) -> None:
    """Make the keys for Secure Boot and for updates, in a new folder that only you can read.

    Keep it outside of any repository, and keep it: nodes take no update that is signed by another
    key. `appliance build SITE -o DIR --keys FOLDER` signs with them.
    """
    kit = tools.ensure()
    with step("Making the keys"):
        made = keys.generate(output, kit)
    for path in (*made.secret, *made.public):
        typer.echo(path)
