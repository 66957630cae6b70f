"""`appliance install`: an image on a disk, for a real machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from appliance import tools
from appliance.errors import ToolError
from appliance.image import medium
from appliance.node.disks import Disk


def install(
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="The .raw file, beside its manifest.json.")
    ],
    to: Annotated[
        Path, typer.Option("--to", metavar="DISK", help="The disk to overwrite, or a new file.")
    ],
    node: Annotated[
        str | None, typer.Option(metavar="NODE", help="Which of the site's nodes it will be.")
    ] = None,
    medium_for: Annotated[
        str | None,
        typer.Option(
            metavar="DISK",
            help="Make a medium that installs the node, unasked, on this disk of its machine.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Overwrite it without asking.")] = False,
) -> None:
    """Write IMAGE to a disk, with the name of its node on the boot partition, and compare.

    The machine must start by UEFI: BIOS is not supported. It needs no SMBIOS string then. Disks
    that are in use, or too small, are refused.

    With --medium-for the disk (a USB stick, say) is one that installs: it overwrites the named disk
    of the machine that starts from it, and switches the machine off.
    """
    made = medium.read(image)
    name = made.node(node)
    if disk := medium.fit(to):
        _agree(disk, yes)
    files = medium.for_installer(medium_for, name) if medium_for else medium.for_router(name)
    medium.write(made, to, files, tools.ensure())
    typer.echo(to)


def _agree(disk: Disk, yes: bool) -> None:
    """Have it confirmed that the disk loses all that is on it."""
    loss = f"{disk} will lose all that is on it"
    if yes:
        return
    if not sys.stdin.isatty():
        raise ToolError(loss, "say --yes")
    typer.confirm(f"{loss}. Go on?", abort=True, err=True)
