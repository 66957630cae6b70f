"""Carries flows that know what an interruption did to them; runs inside a lab host, standard
library only.

`python3 -m appliance.lab.traffic JSON`, where the JSON is `{NAME: {"kind": KIND, ...}, ...}`,
prints `{"ready": true}` once every flow stands, then all reports by name for each line on its
input: `peek` for the figures so far, `stop` (or the end of the input) for the last. If one does
not stand, it prints the reports at once and ends. All times come from one monotonic clock, so no
clocks need to agree.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from appliance.lab import smtp, transfers, web
from appliance.lab.meter import Meter, Stop, say, words
from appliance.lab.paced import SETUP, Command, Datagrams, Ping, Ssh, Tcp

FINISH = 120.0  # seconds for all flows together to come to their end after `stop`


class Flow(Protocol):
    """What this program carries."""

    meter: Meter

    def open(self) -> None:
        """Return when it stands."""

    def carry(self, stop: Stop) -> None:
        """Go on until the stop, or its death."""

    def finish(self) -> None:
        """Show that it still carries."""


KINDS: dict[str, Callable[..., Flow]] = {
    "ssh": Ssh,
    "command": Command,
    "tcp": Tcp,
    "udp": Datagrams,
    "ping": Ping,
    "http": web.Visits,
    "http kept": web.Requests,
    "smtp": smtp.Session,
    "ftp idle": transfers.Session,
    "ftp download": transfers.Download,
    "ftp upload": transfers.Upload,
    "ftp next": transfers.Next,
    "ftp held": transfers.Held,
}


def attempt(flow: Flow, part: Callable[[], None], prefix: str = "") -> None:
    """Do a part of a flow; a failure, of whatever kind, is its death, told with what was done."""
    try:
        part()
    except Exception as error:
        doing = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
        flow.meter.died(f"{prefix}{doing}{type(error).__name__}: {error}")


def in_threads(flows: dict[str, Flow], work: Callable[[Flow], None]) -> list[threading.Thread]:
    """The same for every flow, at once."""
    threads = [threading.Thread(target=work, args=[f], daemon=True) for f in flows.values()]
    for thread in threads:
        thread.start()
    return threads


def stand(flows: dict[str, Flow]) -> bool:
    """Open all; whether every one of them stands."""
    opening = in_threads(flows, lambda flow: attempt(flow, flow.open, "never stood: "))
    deadline = time.monotonic() + 2 * SETUP
    for flow, thread in zip(flows.values(), opening, strict=True):
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            flow.meter.died(f"never stood: still busy after {2 * SETUP:g} s")
    return all(flow.meter.alive for flow in flows.values())


def carry(flows: dict[str, Flow]) -> None:
    """Have each go on in a thread of its own, obey the host, and bring all to their end."""
    stop = Stop()

    def life(flow: Flow) -> None:
        attempt(flow, lambda: flow.carry(stop))
        if flow.meter.alive:
            attempt(flow, flow.finish)

    threads = in_threads(flows, life)
    for word in words():
        if word == "stop":
            break
        say(reports(flows))
    stop.say()
    deadline = time.monotonic() + FINISH
    for flow, thread in zip(flows.values(), threads, strict=True):
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            flow.meter.died(f"still busy {FINISH:g} s after the stop")


def reports(flows: dict[str, Flow]) -> dict[str, Any]:
    """What became of each until now."""
    return {name: flow.meter.report() for name, flow in flows.items()}


def main() -> None:
    """Run with the arguments of this module's docstring."""
    orders: dict[str, dict[str, Any]] = json.loads(sys.argv[1])
    flows = {name: KINDS[order.pop("kind")](Meter(), **order) for name, order in orders.items()}
    if stand(flows):
        for flow in flows.values():
            flow.meter.begin()
        say({"ready": True})
        carry(flows)
    say(reports(flows))
    os._exit(0)  # a thread that hangs in a dead connection must not hold up the end


if __name__ == "__main__":
    main()
