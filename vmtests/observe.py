"""What the tests look at. Every wait has a deadline, and says what it saw last."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from appliance.lab import flows
from appliance.lab.flows import Flow
from appliance.lab.pair import Lab

BETWEEN_LOOKS = 0.1  # seconds

# Seconds between a probe's packets where it is not the gap that counts: a node boots sooner beside
# less work.
SELDOM = 0.05


def until(condition: Callable[[], object], timeout: float, what: str) -> None:
    """Wait until `condition` is true; AssertionError with its last value after `timeout` s."""
    end, pause = time.monotonic() + timeout, threading.Event()
    while not (seen := condition()):
        assert time.monotonic() < end, f"waited {timeout:g} s for {what}; last seen: {seen!r}"
        pause.wait(BETWEEN_LOOKS)


def settle(lab: Lab) -> None:
    """Every cable whole, every host well, every node up, one active and the other its synced
    standby.
    """
    lab.mend()
    for host in lab.hosts.values():
        host.heal()
    for node in lab.nodes.values():
        if not node.running:
            node.start()
    lab.wait_ready(timeout=300)


def typing(lab: Lab) -> Flow:
    """A types to B over SSH, 10 characters a second, through the pair's source NAT."""
    return flows.ssh(lab.hosts["inside"], lab.hosts["outside"].address)


def moves(flow: Flow, count: int = 10, timeout: float = 20) -> None:
    """`count` more of what the flow sends come back; AssertionError if not within `timeout` s."""
    before = flow.peek().received
    until(lambda: flow.peek().received >= before + count, timeout, f"{flow.words} to go on")
