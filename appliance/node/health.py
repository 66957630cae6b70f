"""What is wrong with this router by itself: its units, and its firewall.

`appliance.node.trial` decides by it whether a boot is good, `appliance-status` tells of it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path

NODE = Path("etc/appliance/node.json")

# What has to run, and the file that says that this router is to run it.
UNITS = {
    "systemd-networkd.service": NODE,
    "nftables.service": NODE,
    "appliance-watch.service": NODE,
    "appliance-agent.service": Path("etc/appliance/agent.json"),
    "appliance-expectations.service": Path("etc/appliance/agent.json"),
    "conntrackd.service": Path("etc/conntrackd/conntrackd.conf"),
    "keepalived.service": Path("etc/keepalived/keepalived.conf"),
    "ssh.service": Path("etc/ssh/sshd_config.d/10-appliance.conf"),
    "appliance-collect.service": Path("etc/appliance/metrics.json"),
    "appliance-metrics.service": Path("etc/appliance/metrics.json"),
    "rsyslog.service": Path("etc/rsyslog.conf"),
    "systemd-timesyncd.service": Path("etc/systemd/timesyncd.conf.d/10-appliance.conf"),
}

# The closed firewall has the same table; only a site's rules have this chain.
_OF_THE_SITE = "chain known"


def units(root: Path = Path("/")) -> dict[str, str]:
    """What has to run on this router, and what systemd says of it."""
    wanted = [name for name, file in UNITS.items() if (root / file).is_file()]
    said = _output("systemctl", "is-active", *wanted).splitlines() if wanted else []
    return dict(zip_longest(wanted, said[: len(wanted)], fillvalue="unknown"))


def problems(root: Path = Path("/"), states: Mapping[str, str] | None = None) -> Iterator[str]:
    """What is wrong with this router at this moment; `states` are its units', if known already."""
    if not (root / NODE).is_file():
        yield "no site: this router does not know which node it is"
        return
    for unit, state in (units(root) if states is None else states).items():
        if state != "active":
            yield f"{unit} is {state}"
    failed = _output("systemctl", "list-units", "--failed", "--plain", "--no-legend")
    yield from (f"{line.split()[0]} has failed" for line in failed.splitlines())
    if _OF_THE_SITE not in _output("nft", "list", "table", "inet", "appliance"):
        yield "the firewall is not loaded"


def identity(root: Path = Path("/")) -> str:
    """Node, site and digest of the site file, as one line."""
    node = json.loads((root / NODE).read_text())
    return f"{node['node']} of {node['site']} ({node['digest'][:12]})"


def _output(*argv: str) -> str:
    """What a program says, whether or not it is content."""
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
