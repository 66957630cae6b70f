"""What a flow counts, and its line to the host; runs inside a lab host, standard library only."""

from __future__ import annotations

import json
import os
import time
from typing import Any


class Meter:
    """Counts, and the longest time that no answer came, in seconds from the moment of `begin`."""

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0
        self.whole = True
        self.alive = True
        self.note = ""
        self.began = self.last = time.monotonic()
        self.stall = self.stall_at = 0.0

    def begin(self) -> None:
        """The connection stands: stalls count from here."""
        self.began = self.last = time.monotonic()
        self.stall = 0.0

    def answer(self, count: int = 1) -> None:
        """An answer came."""
        self.received += count
        self.quiet()
        self.last = time.monotonic()

    def quiet(self) -> None:
        """Take the present silence into account."""
        gap = time.monotonic() - self.last
        if gap > self.stall:
            self.stall, self.stall_at = gap, self.last - self.began

    def died(self, why: str) -> None:
        """The connection is gone for good."""
        self.alive = False
        self.note = self.note or why

    def report(self) -> dict[str, Any]:
        """The figures as the host reads them."""
        return {
            "sent": self.sent,
            "received": self.received,
            "longest_stall": self.stall,
            "stall_at": self.stall_at,
            "seconds": time.monotonic() - self.began,
            "whole": self.whole,
            "alive": self.alive,
            "note": self.note,
        }


class Commands:
    """The host's lines on standard input."""

    def __init__(self) -> None:
        self.partial = b""

    def read(self) -> list[str]:
        """The lines that have come; the end of the input is a `stop`."""
        data = os.read(0, 4096)
        if not data:
            return ["stop"]
        *lines, self.partial = (self.partial + data).split(b"\n")
        return [line.decode() for line in lines]


def say(**message: Any) -> None:
    """One line to the host."""
    print(json.dumps(message), flush=True)


def obey(commands: Commands, meter: Meter) -> bool:
    """Answer the host's lines; False at the last."""
    for line in commands.read():
        if line == "stop":
            return False
        say(**meter.report())
    return True
