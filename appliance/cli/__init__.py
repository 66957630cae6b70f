"""The command line: `appliance check | render | explain | keygen | build | install | lab`, and for
a site that runs `apply | status | handover | sessions | drain | undrain | upgrade`.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

import appliance
from appliance.cli.apply import apply
from appliance.cli.build import build
from appliance.cli.check import check
from appliance.cli.drain import drain, undrain
from appliance.cli.explain import explain
from appliance.cli.handover import handover
from appliance.cli.install import install
from appliance.cli.keygen import keygen
from appliance.cli.lab import lab
from appliance.cli.render import render
from appliance.cli.sessions import sessions
from appliance.cli.status import status
from appliance.cli.upgrade import upgrade
from appliance.errors import SiteError, ToolError
from appliance.run import show_commands

app = typer.Typer(
    name="appliance",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"appliance {appliance.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show each command run, ready to paste.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Build, test and run a highly available firewall from one site file.

    Start with `appliance check SITE`; `appliance build SITE -o DIR` makes a bootable image.

    `appliance lab up SITE` boots the pair on this machine, for you to try to break.

    `appliance status SITE` asks the nodes of a site that runs, over SSH; `appliance apply SITE`
    puts a changed site in force on them.
    """
    if verbose:
        show_commands()


app.command()(check)
app.command()(render)
app.command()(explain)
app.command()(keygen)
app.command()(build)
app.command()(install)
app.add_typer(lab, name="lab")
app.command()(apply)
app.command()(status)
app.command()(handover)
app.command()(sessions)
app.command()(drain)
app.command()(undrain)
app.command()(upgrade)


def main() -> None:
    """Run the command; exit code 2 for a bad file or call, 1 for a tool or machine that failed."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        app()
    except SiteError as bad:
        errors.print(str(bad), markup=False)
        sys.exit(2)
    except ToolError as failed:
        errors.print(f"appliance: {failed}", markup=False)
        sys.exit(1)
