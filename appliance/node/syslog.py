"""Sends the node's journal to the site's log hosts: `python3 -m appliance.node.syslog FOLDER`.

The journal itself is the queue: it lies on the disk, is bounded, and outlives a reboot. So a log
host that is away holds up nothing and fills nothing; when it is back, it gets what is left of what
it missed. A bookmark in FOLDER for each host says how far it has come: by TCP, what its kernel has
taken in; by UDP, what was sent, and nobody knows more.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import select
import socket
import subprocess
import sys
import termios
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from appliance.node.journal import log_to_journal

CONFIG = Path("/etc/appliance/syslog.json")

RETRY_S = 2.0
WORTH_TELLING_S = 60.0  # how long it has to have gone well before a failure is told again
PATIENCE_S = 10.0  # for a connection to come about, and for room in its buffer
QUIET_S = 1.0  # without an entry, until it is looked what the host has taken in meanwhile
UNANSWERED_MS = 30_000  # for the other end to acknowledge, before it counts as gone

LONGEST = 8192  # bytes of a line: what a receiver should take at least by RFC 5425 section 4.3.1
FACILITY, SEVERITY = 3, 6  # daemon, informational: of an entry that does not say

_FIELDS = "MESSAGE,PRIORITY,SYSLOG_FACILITY,SYSLOG_IDENTIFIER,SYSLOG_PID,_COMM,_PID,_HOSTNAME"
_CURSOR = re.compile(r"s=[0-9a-f]+;[0-9a-z=;]+")

Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Host:
    """A log host; `protocol` is udp or tcp."""

    address: str
    port: int
    protocol: str

    def __str__(self) -> str:
        return f"{self.address} {self.protocol}/{self.port}"

    @property
    def file(self) -> str:
        """The name of its bookmark."""
        return f"{self.address}-{self.protocol}-{self.port}"


class Bookmark:
    """How far a host has come, on disk: written over in place, for a file made anew each time would
    cost the disk a good deal more. A disk that takes nothing costs the place only.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.cursor: str | None = None
        with suppress(OSError):
            found = _CURSOR.fullmatch(path.read_text(errors="replace").partition("\n")[0])
            self.cursor = found and found[0]

    def move(self, cursor: str) -> None:
        """The host has this entry and those before it."""
        self.cursor = cursor
        with suppress(OSError):
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(file, f"{cursor}\n".encode(), 0)
            finally:
                os.close(file)


def line(entry: Entry) -> bytes:
    """An entry of the journal as RFC 5424 has it (section 6), on one line."""
    priority = 8 * _number(entry, "SYSLOG_FACILITY", FACILITY, 23)
    priority += _number(entry, "PRIORITY", SEVERITY, 7)
    moment = datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, UTC)
    when = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
    host = _word(entry, 255, "_HOSTNAME")
    name = _word(entry, 48, "SYSLOG_IDENTIFIER", "_COMM")
    process = _word(entry, 128, "SYSLOG_PID", "_PID")
    text = "".join(c if c.isprintable() else " " for c in _text(entry.get("MESSAGE")))
    whole = f"<{priority}>1 {when} {host} {name} {process} - - {text}".encode()
    return whole[:LONGEST].decode(errors="ignore").encode()


def _text(value: object) -> str:
    """A field as journalctl gives it: text, bytes as a list of numbers, or a list of several."""
    if isinstance(value, list) and all(isinstance(each, int) for each in value):
        return bytes(value).decode(errors="replace")
    if isinstance(value, list):
        return _text(value[0])
    return value if isinstance(value, str) else ""


def _number(entry: Entry, key: str, default: int, most: int) -> int:
    text = _text(entry.get(key))
    return int(text) if re.fullmatch("[0-9]{1,2}", text) and int(text) <= most else default


def _word(entry: Entry, longest: int, *keys: str) -> str:
    """The first of these fields that says something: printable ASCII without blanks, or a dash."""
    said = next(filter(None, (_text(entry.get(key)) for key in keys)), "")
    return re.sub(r"[^!-~]", "_", said)[:longest] or "-"


class Link:
    """A way to a log host, and how far its end has taken in what was sent."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._stream = end.type is socket.SOCK_STREAM
        self._sent = 0
        self._under_way: deque[tuple[int, str]] = deque()

    def send(self, data: bytes, cursor: str) -> None:
        """Send one line, the entry of that cursor; OSError where the host cannot be reached.

        By TCP lines end in a line feed (RFC 6587 section 3.4.2). A log host says nothing, but that
        it closes the connection: a line written after that would be lost.
        """
        if self._stream and select.select([self._end], [], [], 0)[0] and not self._end.recv(4096):
            raise ConnectionError("the log host has closed the connection")
        data += b"\n" if self._stream else b""
        self._end.sendall(data)
        self._sent += len(data)
        self._under_way.append((self._sent, cursor))

    def taken(self) -> str | None:
        """The last entry that the other end has whole, if there is a later one than last time."""
        out, newest = self._sent - self._unacknowledged(), None
        while self._under_way and self._under_way[0][0] <= out:
            _, newest = self._under_way.popleft()
        return newest

    def _unacknowledged(self) -> int:
        """Bytes: SIOCOUTQ of tcp(7)."""
        if not self._stream:
            return 0
        return int.from_bytes(fcntl.ioctl(self._end, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


@contextmanager
def connected(host: Host) -> Iterator[Link]:
    """A way to the host; OSError where it cannot be reached."""
    family = socket.AF_INET if ip_address(host.address).version == 4 else socket.AF_INET6
    kind = socket.SOCK_STREAM if host.protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as end:
        end.settimeout(PATIENCE_S)
        if kind is socket.SOCK_STREAM:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_MS)
        end.connect((host.address, host.port))
        yield Link(end)


@contextmanager
def journal(after: str | None) -> Iterator[Iterator[Entry | None]]:
    """What comes after that place in the journal, or since the boot, and all that follows; None
    once when nothing has come for a while.
    """
    # To follow means this boot only, unless one says otherwise.
    start = ["--boot=all", f"--after-cursor={after}"] if after else ["--boot"]
    argv = ["journalctl", "--follow", "--no-tail", "--all", "--output=json", *start]
    argv.append(f"--output-fields={_FIELDS}")
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as reader:
        assert reader.stdout
        try:
            yield _entries(reader.stdout.fileno())
        finally:
            reader.kill()


def _entries(source: int) -> Iterator[Entry | None]:
    rest = b""
    patience: float | None = QUIET_S
    while True:
        if not select.select([source], [], [], patience)[0]:
            patience = None
            yield None
            continue
        if not (piece := os.read(source, 65536)):
            return
        *lines, rest = (rest + piece).split(b"\n")
        for each in lines:
            with suppress(ValueError):  # what cannot be read must not hold up the rest
                yield json.loads(each)
        patience = QUIET_S


def forward(host: Host, bookmark: Bookmark) -> None:
    """Send all there is for ever; whatever fails is tried again, from the bookmark on."""
    pause, told = threading.Event(), False
    while True:
        began = time.monotonic()
        try:
            with connected(host) as link, journal(bookmark.cursor) as entries:
                for entry in entries:
                    if taken := link.taken():
                        bookmark.move(taken)
                    if entry:
                        link.send(line(entry), entry["__CURSOR"])
            raise ChildProcessError("journalctl has ended")
        except OSError as error:
            # This is itself sent: a host that comes and goes must not make a log of its own.
            if time.monotonic() - began > WORTH_TELLING_S or not told:
                logging.warning("%s does not get the log now: %s", host, error)
            told = True
        pause.wait(RETRY_S)


def main(argv: list[str]) -> int:
    """Serve every host for ever; the optional second argument is the path of the config."""
    log_to_journal()
    config = json.loads((Path(argv[2]) if len(argv) > 2 else CONFIG).read_text())
    over = threading.Event()

    def serve(host: Host) -> None:
        try:
            forward(host, Bookmark(Path(argv[1]) / host.file))
        finally:
            over.set()

    for each in config["hosts"]:
        threading.Thread(target=serve, args=[Host(**each)], daemon=True).start()
    over.wait()
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
