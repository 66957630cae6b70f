"""`appliance lab`: the site on this machine, to play with and to break."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from appliance.cli.reading import read
from appliance.image import build
from appliance.image.peers import peers_image
from appliance.lab import client, ssh
from appliance.lab.pair import Lab
from appliance.lab.service import Service, serving
from appliance.progress import step
from appliance.render.site import render

lab = typer.Typer(
    no_args_is_help=True,
    help="Boot a site's appliances and their neighbours on this machine, and break things.",
)

REFRESH = 1.0  # seconds between looks at the nodes

Site = Annotated[
    str | None, typer.Option("--site", help="Which lab, if more than one is up: the site's name.")
]
Node = Annotated[str, typer.Argument(metavar="NODE", help="A node of the site.")]
Net = Annotated[str, typer.Argument(metavar="NETWORK", help="A network of the site.")]

_COLOURS = {"active": "bold green", "standby": "cyan", "off": "red", "mixed": "bold yellow"}


@lab.command()
def up(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="The site file.")],
    image: Annotated[
        Path | None, typer.Option(help="Boot this image (.raw) instead of building one now.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Keep logs and captures in this folder afterwards.")
    ] = None,
) -> None:
    """Boot every node of SITE with hosts around it; runs until ^C or `appliance lab down`.

    Nothing else on this machine or its network is touched, and no privilege is needed. While it
    runs, use `appliance lab shell`, `cut`, `mend`, `kill`, `start` and `capture` from another
    terminal, and watch the table here.
    """
    plan = read(site)
    with ExitStack() as stack:
        stack.enter_context(_interruptible())
        gone = threading.Event()
        stack.callback(gone.set)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="appliance-lab-")))
        raw = image or build(plan, render(plan), scratch / "image").raw
        peers, key = peers_image(), ssh.make_key(scratch)
        own = key.with_suffix(".pub").read_text().strip()
        running = Lab(plan, image=raw, peers=peers, workdir=keep or scratch / "run", key=own)
        service = Service(running, gone, key)
        stack.enter_context(serving(service))
        with step("Powering on"):
            stack.enter_context(running)
        service.watch_start()
        _follow(service)
    Console(stderr=True).print("The lab is gone.")


@lab.command()
def shell(
    name: Annotated[str, typer.Argument(metavar="NODE", help="A node, a host, or `peers`.")],
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND...]", help="Run this, no shell.")
    ] = None,
    site: Site = None,
) -> None:
    """A root shell on a node or host, over no network: it works whatever is cut. ^] leaves."""
    # ssh(1) ends its ProxyCommand by this signal, which nohup(1) has everybody ignore.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    raise typer.Exit(client.shell(site, name, command or ()))


@lab.command()
def cut(
    node: Node,
    network: Net,
    silent: Annotated[
        bool, typer.Option("--silent", help="Lose all frames, but leave the carrier up.")
    ] = False,
    site: Site = None,
) -> None:
    """Cut the cable between a node and a network."""
    client.ask(site, "cut", machine=node, network=network, silent=silent)


@lab.command()
def mend(
    node: Annotated[str | None, typer.Argument(metavar="[NODE", help="A node;")] = None,
    network: Annotated[str | None, typer.Argument(metavar="NETWORK]", help="its network.")] = None,
    site: Site = None,
) -> None:
    """Mend one cable, or all of them."""
    if node and not network:
        raise typer.BadParameter("name a network too, or neither", param_hint="NETWORK")
    client.ask(site, "mend", machine=node, network=network)


@lab.command()
def kill(node: Node, site: Site = None) -> None:
    """Take a node's power away, at once."""
    client.ask(site, "kill", machine=node)


@lab.command()
def start(
    node: Node,
    fresh_disk: Annotated[
        bool, typer.Option("--fresh-disk", help="With an empty disk, as from the factory.")
    ] = False,
    site: Site = None,
) -> None:
    """Power a node on again."""
    client.ask(site, "start", machine=node, fresh_disk=fresh_disk)


@lab.command()
def capture(
    network: Net,
    write: Annotated[
        Path | None, typer.Option("--write", "-w", metavar="FILE", help="Write to a file.")
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="From the lab's start on, not only from now on.")
    ] = False,
    site: Site = None,
) -> None:
    """Every frame that enters a network, as a pcap file or stream.

    To watch: `appliance lab capture inside | tcpdump -nr -`.
    """
    if write:
        with write.open("wb") as file:
            client.capture(site, network, file, whole=whole)
    elif sys.stdout.isatty():
        raise typer.BadParameter("a capture is no text: add -w FILE, or pipe it to `tcpdump -nr -`")
    else:
        client.capture(site, network, sys.stdout.buffer, whole=whole)


@lab.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    site: Site = None,
) -> None:
    """Who is active, and what is broken."""
    answer = client.ask(site, "status")
    if as_json:
        typer.echo(json.dumps(answer, indent=1))
    else:
        Console().print(table(answer))


@lab.command()
def ssh_config(site: Site = None) -> None:
    """What `ssh -F FILE` needs to reach the nodes from here, by way of the hosts beside them.

    `appliance lab ssh-config >lab.conf`, then `appliance status SITE --ssh "ssh -F lab.conf"`.
    """
    typer.echo(ssh.config(client.ask(site, "status"), sys.argv[0]), nl=False)


@lab.command()
def down(site: Site = None) -> None:
    """End the lab; returns when nothing of it is left."""
    client.down(site)


def table(status: dict[str, Any]) -> Table:
    """The picture of a lab that people see."""
    networks = status["networks"]
    picture = Table("", "", *networks, title=f"{status['site']}: {status['message']}")
    for name, condition in status["nodes"].items():
        links = (_link(status["links"][name].get(network)) for network in networks)
        colour = _COLOURS.get(condition, "yellow")
        picture.add_row(name, f"[{colour}]{condition}[/]", *links)
    for name, host in status["hosts"].items():
        places = (host["address"] if network == host["network"] else "" for network in networks)
        picture.add_row(name, "host", *places, style="dim")
    return picture


def _link(faults: str | None) -> str:
    return f"[red]{faults}[/]" if faults else "ok"


@contextmanager
def _interruptible() -> Iterator[None]:
    """^C, a closed terminal and a polite kill all end the lab in order."""

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    old = {each: signal.signal(each, leave) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for each, handler in old.items():
            signal.signal(each, handler)


def _follow(service: Service) -> None:
    """Show the state until somebody ends the lab: as a table, or a line for each change."""
    console = Console(stderr=True)
    with Live(console=console, auto_refresh=False) as live:
        last = ""
        while not service.ending.wait(REFRESH if last else 0):
            now = service.status()
            words = ", ".join([now["message"], *(f"{n}: {c}" for n, c in now["nodes"].items())])
            if console.is_terminal:
                live.update(table(now), refresh=True)
            elif words != last:
                console.print(words)
            last = words
