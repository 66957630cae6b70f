"""What keepalived's checks say of the real servers, and why: from its lines in the journal.

Nothing else of keepalived 2.3 tells why a server is out: its FIFO gives up and down only, and its
dumps are files for people. The lines are those of `perform_svr_state` and `clear_service_rs` in
its ipwrapper.c, and before each what the check has found.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from appliance.node.netlink import Address

Key = tuple[int, Address]  # the mark of the service, and the server

_LINES = 2000  # of the latest: a check that fails says a few at most
_LIMIT_S = 10.0

_SERVER = re.compile(r"\[([0-9A-Fa-f.:]+)\]:(?:\w+:)?\d+")
_MOVED = re.compile(
    r"(?P<what>Adding|Removing|Enabling|Disabling|Shutting down) (?:\(inhibited\) )?service "
    r"\[(?P<server>[0-9A-Fa-f.:]+)\]:\S+ (?:to|from|of) VS FWM (?P<mark>\d+)"
)
_DOWN = ("Removing", "Disabling")
_BEGINS = "Starting Keepalived "  # with every server taken for well
# No reasons: that it went well, and what follows from a reason.
_NO_REASON = re.compile(r"succe|Changing weight|sorry server|no longer exist")
# What says only that there was a reason; better than nothing.
_SUM = re.compile(r"CHECK on service \S+ (?:of \S+ )?failed")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checks think of a server, since when (Unix time), and what they found."""

    up: bool
    since: float
    why: str | None = None


Verdicts = Mapping[Key, Verdict]


def verdicts(entries: Iterable[Mapping[str, Any]]) -> dict[Key, Verdict]:
    """The last word on each server since keepalived's last start, of entries in their order."""
    said: dict[Key, Verdict] = {}
    reasons: dict[Address, str] = {}
    for entry in entries:
        text = entry.get("MESSAGE")
        if not isinstance(text, str):
            continue
        when = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
        if text.startswith(_BEGINS):
            said.clear()
            reasons.clear()
        elif moved := _MOVED.match(text):
            server = ip_address(moved["server"])
            down = moved["what"] in _DOWN
            reason = reasons.pop(server, None)
            said[int(moved["mark"]), server] = Verdict(not down, when, reason if down else None)
        else:
            _note(text, reasons)
    return said


def _note(text: str, reasons: dict[Address, str]) -> None:
    """A line that names a server may be why it goes out next; of several the last, and a sum only
    where there is nothing else.
    """
    found = _SERVER.search(text)
    if found is None or _NO_REASON.search(text):
        return
    server = ip_address(found[1])
    if not (_SUM.search(text) and server in reasons):
        reasons[server] = text


def recent() -> dict[Key, Verdict]:
    """By the journal as far as it goes back; nothing where it cannot be read."""
    # Any boot: to ask for this one takes a part of /proc that the agent's unit hides.
    argv = ["journalctl", "--quiet", "--boot=all", "--output=json", "--output-fields=MESSAGE"]
    argv += [f"--lines={_LINES}", "_SYSTEMD_UNIT=keepalived.service"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return verdicts(_entries(done.stdout))


def _entries(text: str) -> Iterator[Mapping[str, Any]]:
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue
