"""What runs through this node, as JSON: `appliance-sessions`.

The active node's own connections, or (`--held`) those of the peer that this node's conntrackd
holds for a takeover. `appliance sessions` on the operator's machine compares the two.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from appliance.node import config as configuration
from appliance.node import facts, flows, netlink
from appliance.node.conntrackd import Conntrackd, NoAnswerError

_HELP = "Print the connections that run through this node, as JSON."
_HELD_HELP = "those of the peer that are held here for a takeover, instead"

# A line of `conntrackd -e`: protocol, its number, maybe a state, then the original direction.
_HELD = re.compile(
    r"^\S+\s+(\d+)(?: \w+)? src=(\S+) dst=(\S+)(?: sport=(\d+) dport=(\d+))?", re.MULTILINE
)


def key(number: int | str, ends: Iterable[str | int]) -> str:
    """A connection's name on both nodes: its protocol's number and its original direction."""
    return " ".join(map(str, (number, *ends)))


def held(text: str) -> Iterator[str]:
    """The keys of the connections in conntrackd's external cache, from its own words."""
    for number, source, destination, source_port, destination_port in _HELD.findall(text):
        yield key(number, (source, source_port or 0, destination, destination_port or 0))


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0 when all was told, 1 when the kernel or conntrackd did not answer."""
    parser = argparse.ArgumentParser(prog="appliance-sessions", description=_HELP)
    parser.add_argument("--held", action="store_true", help=_HELD_HELP)
    parser.add_argument("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    try:
        tell = _tell_held if arguments.held else _tell_flows
        tell(arguments.root, sys.stdout)
    except (OSError, ValueError, NoAnswerError) as error:
        print(f"appliance-sessions: {error}", file=sys.stderr)
        return 1
    return 0


def _tell_flows(root: Path, out: TextIO) -> None:
    own = sorted(map(str, netlink.addresses()))
    expectations = facts.read_json(root / facts.EXPECTATIONS)
    _stream({**_head(root), "addresses": own, "expectations": expectations}, flows.flows(), out)


def _tell_held(root: Path, out: TextIO) -> None:
    config = configuration.parse((root / facts.AGENT).read_text())
    text = Conntrackd(root / config.control.relative_to("/")).external()
    _stream(_head(root), held(text), out)


def _head(root: Path) -> dict[str, Any]:
    state = facts.read_json(root / facts.STATE) or {}
    identity = facts.read_json(root / facts.NODE) or {}
    return {"node": identity.get("node"), "role": state.get("role")}


def _stream(head: dict[str, Any], items: Iterable[Any], out: TextIO) -> None:
    """One JSON object with a line for each item: a large table need not fit into memory."""
    out.write(json.dumps(head)[:-1] + ', "items": [')
    between = "\n"
    for item in items:
        out.write(between + json.dumps(item, separators=(",", ":")))
        between = ",\n"
    out.write("\n]}\n")


if __name__ == "__main__":
    sys.exit(main())
