"""Give the active role to the peer on purpose: `appliance-handover`, run on the active node.

keepalived tracks a file: when it is not 0 the sync group goes to FAULT, which sends VRRP's
priority 0, so that the peer takes over after its skew time and not after three lost
advertisements (RFC 9568, section 6.4.3).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance.node import config as configuration
from appliance.node import netlink, statefile
from appliance.node.config import Config
from appliance.node.conntrackd import Conntrackd, NoAnswerError, Request
from appliance.node.events import Role

_POLL_S = 0.002
_PEER_HEARD_S = 3.0  # the peer's conntrackd speaks each second
_TABLE_S = 20.0
_RELEASE_S = 5.0
_WATCH_S = 2.0
# Within FTFW's acknowledgement window; what lies there is at most a second old.
_WINDOW = 300


class RefusedError(Exception):
    """The handover does not begin, or the peer did not take the role."""


@dataclass(frozen=True, slots=True)
class Handover:
    """One handover; times are in seconds."""

    config: Config

    def check(self) -> None:
        """Refuse unless this node is active and the peer acknowledges our whole table."""
        if self.config.preempt:
            raise RefusedError("this site prefers one node (preempt): it would take the role back")
        role = statefile.read(self.config.state)["role"]
        if role != Role.MASTER or not self._active():
            raise RefusedError(f"this node is not the active one (its role is {role})")
        self._send_table(Conntrackd(self.config.control))

    def _send_table(self, conntrackd: Conntrackd) -> None:
        heard = conntrackd.stats().received
        wait(lambda: conntrackd.stats().received > heard, _PEER_HEARD_S, "no word from the peer")
        conntrackd.ask(Request.BULK)
        wait(
            lambda: conntrackd.unacknowledged() <= _WINDOW,
            *(_TABLE_S, "the peer does not acknowledge our connections"),
        )

    def perform(self) -> float:
        """Give the role away; the seconds until the virtual addresses were gone from here.

        Raises RefusedError when the role came back: the peer did not take it.
        """
        begin = time.monotonic()
        with self._asking():
            wait(lambda: not self._active(), _RELEASE_S, "keepalived does not give the role away")
            released = time.monotonic() - begin
        if self._returns():
            raise RefusedError("the peer did not take over; this node is active again")
        return released

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """The file says 1 inside, and 0 after it in any case.

        It goes back to 0 as soon as we are released: this node is then a standby again, whose own
        wait of three advertisements is longer than the peer's skew time.
        """
        try:
            self.config.handover.write_text("1\n")
            yield
        finally:
            self.config.handover.write_text("0\n")

    def _returns(self) -> bool:
        end = time.monotonic() + _WATCH_S
        while time.monotonic() < end:
            if self._active():
                return True
            time.sleep(0.05)
        return False

    def _active(self) -> bool:
        return bool(netlink.addresses() & set(self.config.virtual))
