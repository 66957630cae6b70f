"""Take a server out of a virtual service, and back: `appliance-drain SERVICE SERVER`, on a node.

The file that keepalived tracks is all that there is: it makes the server's weight 0, so that it
gets nothing new and keeps what it has, whatever becomes of keepalived or of the node meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from appliance.node import balancing
from appliance.node.balancing import Balancing, RealServer, Service

_HELP = "Let a server get no new connections; it keeps those that it has."
_UNDO_HELP = "take it back instead"


class UnknownError(Exception):
    """There is no such service or server."""


def find(site: Balancing | None, service: str, server: str) -> tuple[Service, RealServer]:
    """By the service's name and any address of the server; UnknownError says which there are."""
    services = {each.name: each for each in site.services} if site else {}
    if service not in services:
        raise UnknownError(f"no virtual service '{service}': {', '.join(services) or 'none here'}")
    found = services[service]
    for each in found.servers:
        if server in map(str, each.addresses):
            return found, each
    names = ", ".join(str(each.addresses[0]) for each in found.servers)
    raise UnknownError(f"no server '{server}' in virtual service '{service}': {names}")


def write(file: Path, *, drained: bool) -> None:
    """On the disk before it is believed: it has to outlive a loss of power. keepalived reads it as
    soon as it is closed.
    """
    with file.open("w") as out:
        out.write(f"{drained:d}\n")
        out.flush()
        os.fsync(out.fileno())


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0 when it is written, 1 when there is no such server, or no room."""
    parser = argparse.ArgumentParser(prog="appliance-drain", description=_HELP)
    parser.add_argument("service")
    parser.add_argument("server", help="one of its addresses")
    parser.add_argument("--undo", action="store_true", help=_UNDO_HELP)
    parser.add_argument("--config", type=Path, default=balancing.PATH, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    try:
        _, server = find(balancing.read(given.config), given.service, given.server)
        write(server.drain, drained=not given.undo)
    except (UnknownError, OSError) as error:
        print(f"appliance-drain: {error}", file=sys.stderr)
        return 1
    addresses = [str(each) for each in server.addresses]
    print(json.dumps({"addresses": addresses, "drained": not given.undo}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
