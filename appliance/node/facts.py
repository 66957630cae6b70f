"""What is known on a node, and what is wrong with it: for `appliance-status` and for the metrics.

A dictionary, as it goes out as JSON. The source of most is the state agent's file; what an older
agent did not write is missing here as well, and nothing is concluded from that.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from appliance.node import health, identity, served
from appliance.node.events import Role

NODE = Path("etc/appliance/node.json")
AGENT = Path("etc/appliance/agent.json")
STATE = Path("run/appliance/state.json")
EXPECTATIONS = Path("run/appliance/expectations.json")
HEALTH = Path("run/appliance/health.json")
_RELEASE = Path("etc/os-release")

# The agent writes each second, and hears the peer's as often.
_HANGS_S = 5.0
_SILENT_S = 5.0
# What looks after the firewall does so each quarter of a minute, and without any hurry.
_WATCHED_S = 90.0

Facts = dict[str, Any]


def read_json(path: Path) -> dict[str, Any] | None:
    """What is in the file; None where there is none. It is replaced as a whole, never half."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return found


def gather(root: Path = Path("/")) -> Facts:
    """Everything, as it is now; `problems` says in words what is wrong."""
    now = time.monotonic()
    state = read_json(root / STATE)
    facts: Facts = {
        **_identity(root),
        "pair": (root / AGENT).is_file(),
        "state": state,
        "state_age_s": _since(now, state, "written", "monotonic"),
        "role_s": _since(now, state, "since", "monotonic"),
        "peer_s": _since(now, state, "peer", "heard"),
        "expectations": read_json(root / EXPECTATIONS),
        "health": read_json(root / HEALTH),
        "units": health.units(root),
        "balancing": served.gather(root, state),
    }
    facts["problems"] = [
        *health.problems(root, facts["units"]),
        *_of_watch(now, facts["health"]),
        *of_pair(facts),
        *served.problems(facts["balancing"]),
    ]
    return facts | {"healthy": not facts["problems"]}


def _identity(root: Path) -> dict[str, str | None]:
    try:
        return asdict(identity.read(root / NODE, root / _RELEASE))
    except FileNotFoundError:
        return dict.fromkeys(("node", "site", "digest", "version"))


def at(facts: object, *path: str) -> Any:
    """What lies under these keys, None where one of them is missing."""
    for key in path:
        facts = facts.get(key) if isinstance(facts, Mapping) else None
    return facts


def _since(now: float, state: Mapping[str, Any] | None, *path: str) -> float | None:
    then = at(state, *path)
    return None if then is None else max(0.0, now - then)


# What is wrong


def _of_watch(now: float, told: Mapping[str, Any] | None) -> Iterator[str]:
    """What only a process with the rights for it can find out; nothing when it has yet to look."""
    if told is None:
        return
    if (age := now - told["written"]["monotonic"]) > _WATCHED_S:
        yield f"nobody has looked after the firewall for {age:.0f} s"
    elif told["ruleset"]:
        yield told["ruleset"]


def of_pair(facts: Facts, *, mixed: bool = False) -> Iterator[str]:
    """What is wrong with this node as one of a pair; `mixed`: the two may differ in their image."""
    state, age = facts["state"], facts["state_age_s"]
    if not facts["pair"]:
        return
    if state is None:
        yield "the state agent has said nothing yet"
    elif age is not None and age > _HANGS_S:
        yield f"the state agent hangs: its last word is {age:.0f} s old"
    else:
        yield from _of_state(state)
        for name, text in (at(facts, "expectations", "alarms") or {}).items():
            yield f"alarm {name}: {text}"
        if "peer" in state:
            yield from _of_peer(facts, state["peer"], mixed=mixed)


def _of_state(state: Mapping[str, Any]) -> Iterator[str]:
    if state["role"] not in (Role.MASTER, Role.BACKUP):
        yield f"it is neither active nor standby: its role is {state['role']}"
    if not state["gate"]:
        yield "the gate is not passed yet: keepalived waits for the peer's table"
    if at(state, "ipvs", "in_step") is False:
        yield "the peer has yet to be told of all of IPVS's connections"
    if state["owed"]:
        yield f"conntrackd still has to do: {', '.join(state['owed'])}"
    for name, text in state["alarms"].items():
        yield f"alarm {name}: {text}"


def _of_peer(facts: Facts, peer: Mapping[str, Any] | None, *, mixed: bool) -> Iterator[str]:
    if peer is None:
        yield "the peer's agent is not heard"
        return
    if facts["peer_s"] > _SILENT_S:
        yield f"the peer's agent has been silent for {facts['peer_s']:.0f} s"
        return
    roles = (facts["state"]["role"], peer["role"])
    if roles.count(Role.MASTER) != 1:
        yield "both nodes are active" if Role.MASTER in roles else "no node is active"
    if not mixed:
        yield from differences(facts, peer)


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    """Where the two nodes are not made from the same; in the same words, whichever is asked."""
    one, other = sorted((one, other), key=lambda node: str(node.get("node")))
    names = f"{one.get('node')} and {other.get('node')}"
    for key, what in (("site", "site"), ("digest", "site file"), ("version", "image version")):
        left, right = one.get(key), other.get(key)
        if left is not None and right is not None and left != right:
            yield f"{names} differ in their {what}: {left[:12]} and {right[:12]}"


# Versions


def versions() -> dict[str, str | None]:
    """Of the kernel and of the two daemons, by their own words."""
    return {
        "kernel": os.uname().release,
        "keepalived": _version("keepalived", "--version"),
        "conntrackd": _version("conntrackd", "-v"),
    }


def _version(*argv: str) -> str | None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\bv(\d+(?:\.\d+)+)", done.stdout + done.stderr)
    return found[1] if found else None
