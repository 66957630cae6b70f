"""conntrackd's control socket, spoken directly.

Its command line client connects to a UNIX stream socket, sends one request as a native int, and
prints what comes until the daemon closes (conntrack-tools, local.c and conntrackd.h). We do the
same without a fork, an exec and a configuration to parse, which cost milliseconds at a takeover.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path


class Request(IntEnum):
    """Requests by their numbers in conntrackd.h, with the option of the command line client."""

    DUMP_EXTERNAL = 17  # -e: what the peer has announced
    STATS = 21  # -s
    BULK = 22  # -B: send all that the internal cache holds to the peer
    ASK = 23  # -n: ask the peer to do so
    FLUSH_INTERNAL = 33  # -f internal
    FLUSH_EXTERNAL = 34  # -f external
    STATS_QUEUE = 36  # -s queue
    RESYNC = 44  # -R: read the kernel's tables into the internal cache
    FLUSH = 45  # -f: both caches
    COMMIT = 46  # -c: write the external cache to the kernel; answered when it is done


class NoAnswerError(Exception):
    """conntrackd is not there, or gave no answer."""


class HungError(NoAnswerError):
    """conntrackd took the request, and gave no answer in time."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Entries in both caches, and packets received from the peer since conntrackd started."""

    internal: int
    external: int
    received: int


_ACTIVE = re.compile(r"cache (internal|external):\s+current active connections:\s+(\d+)")
_RECEIVED = re.compile(r"Pckts sent\s+(\d+) Pckts recv")
_RESEND = re.compile(r"queue rsqueue:\s+current elements:\s+(\d+)")

# A commit, the longest of all, costs some 11 us an entry, and twice that where the kernel has it
# already (`tests/node/bench_commit.py --costs`); emulated, ten times that. Such entries are in both
# caches and count twice.
_LIMIT_S = 5.0
_LIMIT_ENTRY_S = 100e-6


@dataclass(frozen=True, slots=True)
class Conntrackd:
    """The daemon behind the control socket at `path`."""

    path: Path

    def ask(self, request: Request, entries: int = 0) -> str:
        """The answer, once the daemon has closed; HungError if it does not in time.

        `entries` is how many it may have to work on.
        """
        limit = _LIMIT_S + entries * _LIMIT_ENTRY_S
        try:
            return _talk(self.path, request, time.monotonic() + limit)
        except TimeoutError as late:
            raise HungError(f"conntrackd: no answer to {request.name} in {limit:g} s") from late
        except OSError as error:
            raise NoAnswerError(f"conntrackd: {request.name}: {error.strerror}") from error

    def stats(self) -> Stats:
        """Counters as they are now."""
        text = self.ask(Request.STATS)
        active = {name: int(count) for name, count in _ACTIVE.findall(text)}
        received = _RECEIVED.search(text)
        if active.keys() != {"internal", "external"} or received is None:
            raise NoAnswerError("conntrackd: statistics not understood")
        return Stats(active["internal"], active["external"], int(received[1]))

    def external(self) -> str:
        """The connections that the peer has announced, a line each; a child process writes it."""
        return self.ask(Request.DUMP_EXTERNAL, self.stats().external)

    def unacknowledged(self) -> int:
        """Messages sent to the peer that it has not acknowledged yet (FTFW's resend queue)."""
        found = _RESEND.search(self.ask(Request.STATS_QUEUE))
        if found is None:
            raise NoAnswerError("conntrackd: queue statistics not understood")
        return int(found[1])

    def instance(self) -> tuple[int, int] | None:
        """What tells one run of the daemon from the next: it binds a new socket at each start."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_ctime_ns


def _talk(path: Path, request: Request, deadline: float) -> str:
    """One connection: the time limit is for the whole of it, however the answer trickles in."""
    answer = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(deadline - time.monotonic())
        link.connect(str(path))
        link.sendall(struct.pack("=i", request))
        while piece := link.recv(65536):
            answer += piece
            link.settimeout(_left(deadline))
    return answer.decode(errors="replace")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
