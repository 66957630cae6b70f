"""What the negative controls take away from a pair, and give back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from appliance.lab import faults, load
from appliance.lab.drill import Outcome, Watch
from appliance.lab.faults import Scene
from appliance.lab.load import Cell
from appliance.lab.pair import Lab

AGENT = "/etc/appliance/agent.json"
EXPECTATIONS = "appliance-expectations"
CHAIN = "inet appliance known"
LOOSE = "net.netfilter.nf_conntrack_tcp_loose"


@contextmanager
def without_conntrackd(pair: Lab) -> Iterator[None]:
    """Nobody tells the other node of a connection."""
    everywhere(pair, "systemctl stop conntrackd")
    try:
        yield
    finally:
        everywhere(pair, "systemctl start conntrackd")


@contextmanager
def switched_off(pair: Lab, *keys: str) -> Iterator[None]:
    """These cures of FTP's defects are off: `announce`, `hand_over`."""
    kept = {name: node.get(AGENT) for name, node in pair.nodes.items()}
    for name, node in pair.nodes.items():
        node.put(AGENT, json.dumps(json.loads(kept[name]) | dict.fromkeys(keys, False)))
        node.succeed(f"systemctl restart {EXPECTATIONS}")
    try:
        yield
    finally:
        for name, node in pair.nodes.items():
            if node.running:
                node.put(AGENT, kept[name])
                node.succeed(f"systemctl restart {EXPECTATIONS}")


@contextmanager
def lax_rules(pair: Lab) -> Iterator[None]:
    """The rules take a segment from the middle of a connection that they do not know."""
    number = f"nft -a list chain {CHAIN} | sed -n 's/.*not-opening.*handle //p'"
    everywhere(pair, f"sysctl -w {LOOSE}=1 && nft delete rule {CHAIN} handle $({number})")
    try:
        yield
    finally:
        everywhere(pair, f"sysctl -w {LOOSE}=0 && systemctl reload nftables")


def everywhere(pair: Lab, command: str) -> None:
    """Run a command on each node that is on."""
    for node in pair.nodes.values():
        if node.running:
            node.succeed(command)


def power_loss_alone(pair: Lab, missing: str, cells: tuple[Cell, ...]) -> Outcome:
    """A power loss whose dead node stays so: this pair would not get ready again."""
    watch, scene = Watch.begin(pair), Scene.now(pair)
    with load.start(pair, cells) as traffic:
        faults.power_loss(scene)
        pair.wait_active(scene.standby, faults.TAKEN_OVER_WITHIN)
        return watch.outcome(missing, traffic.stop())
