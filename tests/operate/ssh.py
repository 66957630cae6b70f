"""A command that stands for ssh, and what the nodes behind it answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from appliance import cli

EXAMPLES = Path(__file__).parents[2] / "examples"

# Answers lie in NET/ADDRESS/COMMAND; beside each may be its exit code, and what happens after it.
SSH = """#!/bin/sh
net=$(dirname "$0")
while [ "$1" != "--" ]; do
  case "$1" in root@*) address=${1#root@};; esac
  shift
done
shift
echo "$address $*" >>"$net/log"
cd "$net/$address" 2>/dev/null || {
  echo "ssh: connect to host $address port 22: No route to host" >&2
  exit 255
}
[ -e refuses ] && { cat refuses >&2; exit 255; }
[ -e "$1" ] || { echo "sh: 1: ${1%% *}: not found" >&2; exit 127; }
cat "$1"
. "./$1.then"
exit "$(cat "$1.code")"
"""

ADDRESS = {
    "fw1": "192.168.0.1",
    "fw2": "192.168.0.2",  # of testcase.yaml
    "lb1": "10.11.12.2",
    "lb2": "10.11.12.3",  # of the balancers among the examples
}


@dataclass(frozen=True, slots=True)
class Site:
    """`net` holds the command and the answers."""

    net: Path

    def answer(self, node: str, command: str, says: Any, *, code: int = 0, then: str = "") -> None:
        """What a node says to a command, and what changes by it."""
        folder = self.net / ADDRESS[node]
        folder.mkdir(exist_ok=True)
        (folder / command).write_text(says if isinstance(says, str) else json.dumps(says))
        (folder / f"{command}.code").write_text(str(code))
        (folder / f"{command}.then").write_text(then)

    def gone(self, node: str) -> None:
        """It answers no longer."""
        (self.net / ADDRESS[node]).rename(self.net / "gone")

    def log(self) -> list[str]:
        """What was asked of whom."""
        return (self.net / "log").read_text().splitlines()

    def call(self, *arguments: str, site: str = "testcase") -> int:
        """Call `appliance`; its exit code."""
        words = [arguments[0], str(EXAMPLES / f"{site}.yaml"), *arguments[1:]]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("APPLIANCE_SSH", str(self.net / "ssh"))
            patch.setenv("COLUMNS", "140")
            patch.setattr("sys.argv", ["appliance", *words])
            with pytest.raises(SystemExit) as ended:
                cli.main()
        return int(ended.value.code or 0)


def facts(node: str, role: str, **changed: Any) -> dict[str, Any]:
    """What appliance-status says on a node where all is well."""
    return {
        "node": node,
        "site": "testcase",
        "digest": "ab" * 32,
        "version": "7",
        "pair": True,
        "state": {
            "role": role,
            "takeover": {"wall": 1_700_000_000.0, "ms": 2.5, "why": "keepalived says so"},
            "entries": {"internal": 12, "external": 3, "received": 99},
            "sync": {"lag_s": 0.1, "lost": 4, "unacknowledged": 1, "difference": None},
            "both_active": None,
            "alarms": {},
        },
        "state_age_s": 0.4,
        "role_s": 3700.0,
        "peer_s": 0.2,
        "expectations": {"peer": True, "unacknowledged": 0},
        "units": {"keepalived.service": "active", "conntrackd.service": "active"},
        "versions": {"kernel": "6.12", "keepalived": "2.3.3", "conntrackd": "1.4.8"},
        "problems": [],
        "healthy": True,
        **changed,
    }


def testcase(net: Path) -> Site:
    """fw1 is active, fw2 its standby, and all is well."""
    net.mkdir()
    (net / "ssh").write_text(SSH)
    (net / "ssh").chmod(0o755)
    site = Site(net)
    site.answer("fw1", "appliance-status --json", facts("fw1", "MASTER"))
    site.answer("fw2", "appliance-status --json", facts("fw2", "BACKUP"))
    return site
