"""SSH from this computer to the nodes of a lab that is up, by way of the hosts around them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from appliance.run import run

# The lab is no network of this computer: bytes go over the host's control channel. A node that was
# made anew has another host key, and nobody else can be there.
_ALL = """\
Host *
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""


def make_key(folder: Path) -> Path:
    """A key for one lab: its private half, with the other beside it as `.pub`."""
    path = folder / "key"
    options = ["-q", "-t", "ed25519", "-N", "", "-C", "lab"]
    run(["ssh-keygen", *options, "-f", path])
    return path


def config(status: Mapping[str, Any], command: str) -> str:
    """An ssh_config(5) for a lab, from its status; `command` is how `appliance` is called."""
    key = [f"  IdentityFile {status['key']}\n"] if status["key"] else []
    return "".join([*_hosts(status, command), _ALL, *key])


def _hosts(status: Mapping[str, Any], command: str) -> Iterator[str]:
    """Each network that somebody is on leads to the nodes' own addresses there."""
    ways = {host["network"]: name for name, host in reversed(status["hosts"].items())}
    for network, host in ways.items():
        of_nodes = (own.get(network, ()) for own in status["addresses"].values())
        there = [address for each in of_nodes for address in each]
        shell = shlex.join([command, "lab", "shell", "--site", status["site"], host])
        yield f"Host {' '.join(there)}\n  ProxyCommand {shell} -- busybox nc %h %p\n"
