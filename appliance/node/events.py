"""keepalived's notify FIFO: what became of our sync group, in order.

keepalived runs notify scripts in parallel, so under flapping the last to end may be the wrong one.
The FIFO keeps the order; a reader that was busy needs only the latest state.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class Role(StrEnum):
    """The state of the sync group, in keepalived's words; INIT is before it has said any."""

    INIT = "INIT"
    MASTER = "MASTER"
    BACKUP = "BACKUP"
    FAULT = "FAULT"
    STOP = "STOP"


@dataclass(frozen=True, slots=True)
class News:
    """The latest role (None: no change was told).

    `shared`: the peer has been active meanwhile, as well or in between, and has accepted
    connections that this node, active (again), does not have in its kernel.
    """

    role: Role | None = None
    shared: bool = False


_LINE = re.compile(r'(GROUP|INSTANCE) "([^"]*)" ([A-Z_]+)(?: \d+)?')
_LONGEST = 4096


@dataclass(slots=True)
class Parser:
    """Bytes in, news out; a line may come in pieces, and what is not a line is dropped."""

    group: str
    rest: bytes = b""
    malformed: int = 0

    def feed(self, data: bytes) -> News:
        """What the lines that are now complete add up to."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        if len(self.rest) > _LONGEST:
            self.rest, self.malformed = b"", self.malformed + 1
        role: Role | None = None
        shared = False
        for line in lines:
            match = _LINE.fullmatch(line.decode(errors="replace"))
            if match is None:
                self.malformed += 1
                continue
            told = self._role(match[1], match[2], match[3])
            shared |= match[3] == "MASTER_RX_LOWER_PRI"
            shared |= told is Role.MASTER and role not in (None, Role.MASTER)
            role = told or role
        return News(role, shared)

    def _role(self, kind: str, name: str, state: str) -> Role | None:
        """The first instance that is MASTER is enough: a sync group goes up as one.

        keepalived sends the group's own line only after the addresses and the gratuitous ARPs of
        all instances; the commit need not wait for those.
        """
        if kind == "INSTANCE":
            return Role.MASTER if state == Role.MASTER else None
        if name != self.group or state not in Role.__members__:
            return None
        return Role(state)


@dataclass(slots=True)
class Fifo:
    """The reading end. We make the FIFO: keepalived would unlink at its end what it made itself."""

    path: Path
    parser: Parser
    fd: int = field(init=False)

    def __post_init__(self) -> None:
        self.fd = self._open()

    def _open(self) -> int:
        if not self.path.is_fifo():
            self.path.unlink(missing_ok=True)
            os.mkfifo(self.path, 0o600)
        # For reading and writing: else each end of keepalived would be an end of file.
        return os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def read(self) -> News:
        """All that waits in the pipe, as one piece of news."""
        data = bytearray()
        try:
            while piece := os.read(self.fd, 65536):
                data += piece
        except BlockingIOError:
            pass
        return self.parser.feed(bytes(data)) if data else News()

    def replaced(self) -> bool:
        """Whether another file lies at our path now; then it has been opened instead."""
        try:
            same = os.path.samestat(os.fstat(self.fd), self.path.stat())
        except FileNotFoundError:
            same = False
        if same:
            return False
        fresh = self._open()
        os.dup2(fresh, self.fd, inheritable=False)
        os.close(fresh)
        return True
