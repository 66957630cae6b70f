"""Gathers what the metrics are made of: `python3 -m appliance.node.collect SOCKET`.

A service of its own, because it needs to ask the kernel, conntrackd and systemd, and what speaks
to the network must not be able to. Whoever connects to the socket is told, and cannot ask for
anything: one JSON document, then the end.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.node import config as configuration
from appliance.node import facts
from appliance.node.conntrackd import Conntrackd, NoAnswerError, Request
from appliance.node.facts import Facts

_TABLE = ("inet", "appliance")
_FRESH_S = 1.0  # whoever asks more often is told the same again
_PATIENCE_S = 5.0
_TABLE_SIZES = Path("proc/sys/net/netfilter")
_GROUPS = Path("sys/fs/cgroup/system.slice")

# conntrackd's words, in `network2` and `dump_stats` of conntrack-tools' src.
_TRAFFIC = re.compile(r"(\d+) (Bytes|Pckts|Error) (?:sent|send)\s+(\d+) \2 recv")
_TRACKING = re.compile(r"(\d+) (Malformed|Lost) msgs")
_NAMES = {"Bytes": "bytes", "Pckts": "packets", "Error": "errors"}


def collect(root: Path = Path("/")) -> Facts:
    """All that the metrics show; what cannot be learned is None or missing."""
    found = facts.gather(root)
    return found | {
        "conntrack": _table(root),
        "firewall": _counters(),
        "conntrackd": _conntrackd(root),
        "memory": _memory(root, found["units"]),
    }


def _table(root: Path) -> dict[str, int]:
    """The size of the kernel's table, and its limit (nf_conntrack-sysctl.rst)."""
    names = {"entries": "nf_conntrack_count", "limit": "nf_conntrack_max"}
    found = {}
    for name, file in names.items():
        with suppress(OSError):
            found[name] = int((root / _TABLE_SIZES / file).read_text())
    return found


def _counters() -> dict[str, dict[str, int]]:
    """Packets and bytes of each named counter of the ruleset."""
    argv = ["nft", "--json", "list", "counters", "table", *_TABLE]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=_PATIENCE_S)
        listed = [
            each["counter"] for each in json.loads(done.stdout)["nftables"] if "counter" in each
        ]
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
    return {c["name"]: {"packets": c["packets"], "bytes": c["bytes"]} for c in listed}


def _conntrackd(root: Path) -> dict[str, dict[str, int]]:
    """What conntrackd has sent and received since its start, and what of it was no good."""
    try:
        config = configuration.parse((root / facts.AGENT).read_text())
        text = Conntrackd(root / config.control.relative_to("/")).ask(Request.STATS)
    except (OSError, NoAnswerError):
        return {}
    traffic = {_NAMES[what]: (int(sent), int(got)) for sent, what, got in _TRAFFIC.findall(text)}
    return {
        "sent": {what: sent for what, (sent, _) in traffic.items()},
        "received": {what: got for what, (_, got) in traffic.items()},
        "messages": {what.lower(): int(count) for count, what in _TRACKING.findall(text)},
    }


def _memory(root: Path, units: dict[str, Any]) -> dict[str, int]:
    """Bytes charged to each unit's control group (cgroup-v2.rst, memory.current)."""
    found = {}
    for unit in units:
        with suppress(OSError):
            found[unit] = int((root / _GROUPS / unit / "memory.current").read_text())
    return found


@dataclass(slots=True)
class Teller:
    """Tells whoever connects; what it learned less than a second ago is fresh enough."""

    gather: Callable[[], Facts]
    _text: bytes = b""
    _at: float = float("-inf")

    def serve(self, listener: socket.socket) -> None:
        """For ever, one after another: the only client is the service beside this one."""
        while True:
            link, _ = listener.accept()
            with link, suppress(OSError):
                link.settimeout(_PATIENCE_S)
                link.sendall(self.told())

    def told(self) -> bytes:
        """The document."""
        now = time.monotonic()
        if now - self._at >= _FRESH_S:
            self._text, self._at = json.dumps(self.gather()).encode(), now
        return self._text


def main(argv: list[str]) -> None:
    """Serve at the path given; the optional second one is where the root is, for tests.

    Every local service may listen: it is told no secret.
    """
    path, root = Path(argv[1]), Path(argv[2] if len(argv) > 2 else "/")
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()
        Teller(lambda: collect(root)).serve(listener)


if __name__ == "__main__":
    main(sys.argv)
