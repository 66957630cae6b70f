"""`appliance build`: the bootable image of a site, its update and its manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from appliance.cli.reading import read
from appliance.image import Built, Format, Hardware
from appliance.image import build as build_image
from appliance.image import keys as image_keys
from appliance.image import pins as pinned
from appliance.render.site import render


def build(
    site: Annotated[Path, typer.Argument(help="The site file.", metavar="SITE")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")],
    hardware: Annotated[
        Hardware, typer.Option(help="What it is to run on: virtual machines or real ones.")
    ] = Hardware.VM,
    version: Annotated[
        str, typer.Option(help="Its version, which later updates are compared with.")
    ] = "1",
    *,
    formats: Annotated[
        list[Format] | None,
        typer.Option("--format", help="Write the disk in this format too; may be repeated."),
    ] = None,
    packages_from: Annotated[
        Path | None,
        typer.Option(
            metavar="MANIFEST",
            help="Take the versions of all packages from an earlier build's manifest.json.",
        ),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(help="Sign with the keys in this folder (appliance keygen makes them)."),
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Build the base image anew as well.")
    ] = False,
) -> None:
    """Build the bootable image of SITE, the same for all of its nodes.

    The first build makes a base image and keeps it in the cache; after that, a changed site takes
    seconds. In the folder: the raw disk, the same compressed, the payload of an update with its
    checksums, and manifest.json. The same input gives the same bytes. Without --keys the image
    boots where the firmware asks for no signature, and its nodes take no update.
    """
    plan = read(site)
    tree, pins = render(plan), pinned.read(packages_from) if packages_from else None
    built = build_image(
        *(plan, tree, output, hardware, version),
        keys=image_keys.load(keys) if keys else None,
        formats=formats or (),
        pins=pins,
        fresh=no_cache,
    )
    Console(stderr=True).print(_summary(built))
    typer.echo(built.raw)


def _summary(built: Built) -> Table:
    """The files as the manifest lists them."""
    table = Table("file", "size", "sha256", box=None)
    files = json.loads(built.manifest.read_text())["files"]
    for name, facts in files.items():
        table.add_row(name, decimal(facts["size"]), facts["sha256"][:16] + "…")
    return table
