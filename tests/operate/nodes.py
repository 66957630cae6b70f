"""Nodes made of files: a router's root with what its agents wrote, and programs that say so."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from appliance.node.facts import AGENT, EXPECTATIONS, NODE, STATE

DIGEST = "12" * 32

RELEASE = 'ID=debian\nIMAGE_ID="testcase"\nIMAGE_VERSION="7"\n'

EXPECTED = {
    "active": True,
    "peer": True,
    "here": 1,
    "held": 0,
    "handed_over": 1,
    "unacknowledged": 0,
    "acknowledged_ms": None,
    "takeover": None,
    "announced": 5,
    "alarms": {},
}

COUNTERS = [
    {"metainfo": {"version": "1.1.3"}},
    {"counter": {"name": "invalid", "table": "appliance", "packets": 3, "bytes": 180}},
    {"counter": {"name": "refused-input", "table": "appliance", "packets": 16, "bytes": 896}},
]

SYSTEMCTL = """#!/bin/sh
case "$*" in
  is-active*) shift; for unit; do cat "$(dirname "$0")/$unit" 2>/dev/null || echo active; done;;
esac
"""
NFT = f"""#!/bin/sh
case "$*" in
  --json*) echo '{json.dumps({"nftables": COUNTERS})}';;
  *) echo 'table inet appliance {{ chain known {{ }} }}';;
esac
"""
VERSIONS = {"keepalived": "Keepalived v2.3.3 (11/17,2024)", "conntrackd": "daemon v1.4.8. GPL"}


def state(**changed: Any) -> dict[str, Any]:
    """What the agent of an active node writes when all is well; a moment ago."""
    now = time.monotonic()
    return {
        "node": "fw1",
        "site": "testcase",
        "digest": DIGEST,
        "version": "7",
        "role": "MASTER",
        "since": {"monotonic": now - 90, "wall": 1_700_000_000.0},
        "gate": {"outcome": "the peer's table is here", "seconds": 1.25, "entries": 12},
        "takeover": {"wall": 1_700_000_000.0, "ms": 2.5, "why": "keepalived says so"},
        "transitions": {"BACKUP": 2, "MASTER": 1},
        "entries": {"internal": 12, "external": 0, "received": 99},
        "owed": [],
        "repairs": 0,
        "sync": {"lag_s": 0.1, "lost": 4, "unacknowledged": 1, "difference": None},
        "both_active": {"wall": 1_600_000_000.0, "seconds": 0.5, "times": 2},
        "dead": [],
        "peer": peer(now),
        "alarms": {},
        "written": {"monotonic": now - 0.5, "wall": 1_700_000_090.0},
        **changed,
    }


def peer(now: float, **changed: Any) -> dict[str, Any]:
    return {
        "heard": now - 0.1,
        "node": "fw2",
        "site": "testcase",
        "digest": DIGEST,
        "version": "7",
        "role": "BACKUP",
        "role_s": 95.0,
        "internal": 0,
        "external": 12,
        "alarms": {},
        **changed,
    }


def router(root: Path, wrote: dict[str, Any] | None, *, pair: bool = True) -> Path:
    """The root of a node of a pair (or of a lone one), with what its agent wrote."""
    files: dict[Path, Any] = {
        NODE: {"node": "fw1", "site": "testcase", "digest": DIGEST},
        Path("etc/keepalived/keepalived.conf"): {},
    }
    if pair:
        files |= {AGENT: agent(), EXPECTATIONS: EXPECTED}
    if wrote is not None:
        files[STATE] = wrote
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(json.dumps(content))
    (root / "etc/os-release").write_text(RELEASE)
    return root


def agent() -> dict[str, Any]:
    links = [{"interface": "sync", "own": "192.168.3.1", "peer": "192.168.3.2"}]
    return {"virtual": ["192.168.0.100"], "links": links, "cards": [], "peers": [], "advert_s": 0.1}


def programs(folder: Path) -> Path:
    """What the router's programs say; `folder/UNIT` is what systemctl says of a unit."""
    folder.mkdir()
    scripts = {"systemctl": SYSTEMCTL, "nft": NFT}
    scripts |= {name: f"#!/bin/sh\necho '{said}' >&2\n" for name, said in VERSIONS.items()}
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder
