"""What a flow counts, and its line to the host; runs inside a lab host, standard library only."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Iterator
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

    def answer(self, count: int = 1, age: float = 0.0) -> None:
        """An answer came, `age` seconds ago."""
        self.received += count
        self.quiet(age)
        self.last = max(self.last, time.monotonic() - age)

    def quiet(self, age: float = 0.0) -> None:
        """Take the silence until now, or until `age` seconds ago, into account."""
        gap = time.monotonic() - age - self.last
        if gap > self.stall:
            self.stall, self.stall_at = gap, self.last - self.began

    def died(self, why: str) -> None:
        """The connection is gone for good."""
        self.alive = False
        self.note = self.note or why

    def damaged(self, why: str) -> None:
        """Other bytes came than were sent."""
        self.whole = False
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


class Stop:
    """The word to stop, for many threads: a descriptor that becomes readable and stays so."""

    def __init__(self) -> None:
        self.heard, self.said = os.pipe()

    def fileno(self) -> int:
        """For `select`, beside the sockets that a flow waits for."""
        return self.heard

    def say(self) -> None:
        """Stop."""
        os.close(self.said)

    def wait(self, seconds: float | None) -> bool:
        """Whether the word came within so many seconds."""
        return bool(select.select([self], [], [], seconds)[0])


def words() -> Iterator[str]:
    """The host's lines on standard input; its end is a `stop`."""
    partial = b""
    while data := os.read(0, 4096):
        *lines, partial = (partial + data).split(b"\n")
        yield from (line.decode() for line in lines)
    yield "stop"


def say(message: dict[str, Any]) -> None:
    """One line to the host."""
    print(json.dumps(message), flush=True)
