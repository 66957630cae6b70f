"""`appliance explain`: what the site asks of machines beside the appliance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.reading import read
from appliance.explain import explain as explained


def explain(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="The site file (YAML).")],
) -> None:
    """Show what the real servers of each virtual service must do, as snippets ready to paste."""
    typer.echo(explained(read(site)), nl=False)
