"""The other terminals' end of a lab's socket: requests, shells, live captures."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from appliance.errors import ToolError
from appliance.lab.pcap import HEADER
from appliance.lab.service import folder

LEAVE = 0x1D  # ^], as in telnet(1)
CHUNK = 65536
LOOK_AGAIN = 0.1  # seconds between looks at a growing capture


class Connection:
    """One request to a lab that is up."""

    def __init__(self, site: str | None) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        path = _find(site)
        try:
            self.socket.connect(str(path))
        except OSError as error:
            raise ToolError("the lab is gone", "appliance lab up SITE") from error
        self.reader = self.socket.makefile("rb")

    def send(self, **message: Any) -> None:
        """One line to the lab."""
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """One line from the lab; None when it has closed the connection."""
        line = self.reader.readline()
        message: dict[str, Any] | None = json.loads(line) if line else None
        return message

    def ask(self, verb: str, **fields: Any) -> Any:
        """A request and its answer; ToolError with the lab's words when it refuses."""
        self.send(do=verb, **fields)
        answer = self.receive()
        if answer is None:
            raise ToolError("the lab ended meanwhile")
        if "error" in answer:
            raise ToolError(answer["error"])
        return answer["ok"]


def ask(site: str | None, verb: str, **fields: Any) -> Any:
    """Connect, ask, and give the answer."""
    return Connection(site).ask(verb, **fields)


def down(site: str | None) -> None:
    """End the lab; returns when nothing of it is left."""
    connection = Connection(site)
    connection.send(do="down")
    connection.receive()


def shell(site: str | None, name: str, command: Sequence[str]) -> int:
    """Run a command, or a shell, and be its terminal; gives its exit code."""
    connection = Connection(site)
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    size = _size() if interactive else None
    connection.ask("shell", name=name, command=list(command), size=size)
    if not interactive:
        return _carry(connection)
    sys.stderr.write(f"Connected to {name}; leave with ^].\n")
    with _raw(connection):
        return _carry(connection)


def capture(site: str | None, network: str, out: BinaryIO, *, whole: bool) -> None:
    """Copy a network's frames as they come, as a pcap file, until the lab ends or ^C.

    With `whole` from the lab's start, else from now.
    """
    place = ask(site, "capture", network=network)
    living = Connection(site)
    living.send(do="watch")
    with Path(place["path"]).open("rb") as file, contextlib.suppress(KeyboardInterrupt):
        file.seek(len(HEADER) if whole else place["from"])
        out.write(HEADER)
        over = False
        while not over:
            over = bool(select.select([living.socket], [], [], LOOK_AGAIN)[0])
            shutil.copyfileobj(file, out)
            out.flush()


def _find(site: str | None) -> Path:
    """The socket of a site's lab, or of the only one there is."""
    found = [folder() / f"{site}.sock"] if site else sorted(folder().glob("*.sock"))
    if not found or not found[0].exists():
        raise ToolError("no lab is up", "appliance lab up SITE")
    if len(found) > 1:
        raise ToolError("more than one lab is up", f"--site: {', '.join(p.stem for p in found)}")
    return found[0]


def _carry(connection: Connection) -> int:
    """Carry bytes both ways until the program ends; what closes early counts as failed."""
    inward: list[Any] = [sys.stdin.fileno()]
    partial = b""
    while True:
        ready = select.select([connection.socket, *inward], [], [])[0]
        if connection.socket in ready:
            data = connection.socket.recv(CHUNK)
            if not data:
                return 1
            *lines, partial = (partial + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "exit" in message:
                    return int(message["exit"])
                _show(message)
        if inward and inward[0] in ready and not _type(connection, inward):
            return 0


def _show(message: dict[str, Any]) -> None:
    descriptor = 2 if message["stream"] == "err" else 1
    data = base64.b64decode(message["data"])
    while data:
        data = data[os.write(descriptor, data) :]


def _type(connection: Connection, inward: list[Any]) -> bool:
    """Send on what was typed; False when the person leaves."""
    data = os.read(inward[0], 4096)
    if not data:
        inward.clear()
        connection.send(eof=True)
        return True
    if os.isatty(inward[0]) and LEAVE in data:
        return False
    connection.send(data=base64.b64encode(data).decode())
    return True


@contextmanager
def _raw(connection: Connection) -> Iterator[None]:
    """Our terminal passes every key on, and its size when it changes."""
    before = termios.tcgetattr(sys.stdin)
    resized = signal.signal(signal.SIGWINCH, lambda *_: connection.send(size=_size()))
    try:
        tty.setraw(sys.stdin)
        yield
    finally:
        signal.signal(signal.SIGWINCH, resized)
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _size() -> list[int]:
    columns, rows = shutil.get_terminal_size()
    return [rows, columns]
