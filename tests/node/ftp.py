"""FTP through the routers: a server, and a client that can stop between any two steps.

The server is our own: pyftpdlib opens an active data connection at the PORT command already, and
then no expectation outlives it. RFC 959 (5.2) has it opened for the transfer, as vsftpd does.
"""

from __future__ import annotations

import ftplib
import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum

from tests.node.netns import inside

PORT = 21
ERRORS = ftplib.all_errors
SMALL, LARGE = "small", "large"
_SIZE = {SMALL: 20_000, LARGE: 4_000_000}
_PIECE, _PACE_S = 20_000, 0.02  # a megabyte per second: the large file takes four seconds
_PATIENCE_S = 30.0


class Mode(StrEnum):
    """How a data connection is agreed upon; in the active ones the server opens it."""

    PASV = "PASV"
    EPSV = "EPSV"
    PORT = "PORT"
    EPRT = "EPRT"

    @property
    def active(self) -> bool:
        return self in (Mode.PORT, Mode.EPRT)


@contextmanager
def server(namespace: str, *addresses: str) -> Iterator[None]:
    """A server with both files, on port 21 of these addresses of a network namespace."""
    stop = threading.Event()
    with inside(namespace):
        listeners = [socket.create_server((each, PORT), family=_family(each)) for each in addresses]
    for each in listeners:
        threading.Thread(target=_listen, args=(namespace, each, stop), daemon=True).start()
    try:
        yield
    finally:
        stop.set()
        for each in listeners:
            each.shutdown(socket.SHUT_RDWR)
            each.close()


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _listen(namespace: str, listener: socket.socket, stop: threading.Event) -> None:
    with suppress(OSError):
        while True:
            control, _ = listener.accept()
            session = _Session(namespace, control, stop)
            threading.Thread(target=session.run, daemon=True).start()


@dataclass
class _Session:
    """One control connection at the server."""

    namespace: str
    control: socket.socket
    stop: threading.Event
    listener: socket.socket | None = None  # after PASV and EPSV
    peer: tuple[str, int] | None = None  # after PORT and EPRT

    def run(self) -> None:
        with suppress(OSError), self.control, inside(self.namespace):
            self._say("220 Hello.")
            for line in self.control.makefile("r", newline="\r\n"):
                command, _, argument = line.strip().partition(" ")
                self._obey(command, argument)

    def _say(self, text: str) -> None:
        self.control.sendall(f"{text}\r\n".encode())

    def _obey(self, command: str, argument: str) -> None:
        if command in ("PASV", "EPSV"):
            self._say(self._open(command))
        elif command in ("PORT", "EPRT"):
            self.peer = _address(command, argument)
            self._say("200 Agreed.")
        elif command == "RETR":
            self._transfer(argument)
        else:
            known = {"USER": "230 Welcome.", "TYPE": "200 Binary.", "NOOP": "200 Here."}
            self._say(known.get(command, "500 Unknown command."))

    def _open(self, command: str) -> str:
        host = self.control.getsockname()[0]
        self.peer, self.listener = None, socket.create_server((host, 0), family=_family(host))
        self.listener.settimeout(_PATIENCE_S)
        port = self.listener.getsockname()[1]
        if command == "EPSV":
            return f"229 Entering Extended Passive Mode (|||{port}|)"
        numbers = ",".join([*host.split("."), str(port >> 8), str(port & 255)])
        return f"227 Entering Passive Mode ({numbers})."

    def _transfer(self, name: str) -> None:
        self._say("150 Here it comes.")
        with self._data() as data:
            content = memoryview(_content(_SIZE[name]))
            while content and not self.stop.wait(_PACE_S):
                data.sendall(content[:_PIECE])
                content = content[_PIECE:]
        self._say("226 All of it.")

    def _data(self) -> socket.socket:
        if self.peer:
            return socket.create_connection(self.peer, timeout=_PATIENCE_S)
        assert self.listener
        with self.listener:
            return self.listener.accept()[0]


def _address(command: str, argument: str) -> tuple[str, int]:
    if command == "EPRT":
        _, _, host, port, _ = argument.split(argument[0])
        return host, int(port)
    *host, high, low = re.split(",", argument)
    return ".".join(host), int(high) << 8 | int(low)


def _content(size: int) -> bytes:
    seed = hashlib.sha256(b"content").digest()
    return (seed * (size // len(seed) + 1))[:size]


@dataclass
class Client:
    """A control connection, and what it agreed upon for data."""

    namespace: str
    host: str
    mode: Mode
    limit: float = 8.0
    _ftp: ftplib.FTP = field(default_factory=ftplib.FTP)
    _data: socket.socket | None = None
    _peer: tuple[str, int] | None = None

    def login(self) -> None:
        with inside(self.namespace):
            self._ftp.connect(self.host, PORT, timeout=self.limit)
        self._ftp.voidcmd("USER anonymous")
        self._ftp.voidcmd("TYPE I")

    def close(self) -> None:
        self._ftp.close()
        if self._data:
            self._data.close()

    def agree(self) -> None:
        """The command of the mode: from here on the router expects a data connection."""
        if self.mode.active:
            with inside(self.namespace), socket.socket(self._ftp.af) as listener:
                listener.settimeout(self.limit)
                listener.bind((self._own(), 0))
                listener.listen(1)
                self._data = listener.dup()
                self._data.settimeout(self.limit)
            self._tell(self._data.getsockname()[1])
        elif self.mode is Mode.PASV:
            self._peer = ftplib.parse227(self._ftp.sendcmd("PASV"))
        else:
            ends = self._ftp.sock.getpeername()
            self._peer = ftplib.parse229(self._ftp.sendcmd("EPSV"), ends)

    def _own(self) -> str:
        return str(self._ftp.sock.getsockname()[0])

    def _tell(self, port: int) -> None:
        if self.mode is Mode.PORT:
            self._ftp.sendport(self._own(), port)
        else:
            self._ftp.sendeprt(self._own(), port)

    def begin(self, name: str) -> socket.socket:
        """The data connection, with the file on its way."""
        if self._peer:
            with inside(self.namespace):
                data = socket.create_connection(self._peer, timeout=self.limit)
            self._ftp.sendcmd(f"RETR {name}")
        else:
            assert self._data
            self._ftp.sendcmd(f"RETR {name}")
            data, _ = self._data.accept()
            data.settimeout(self.limit)
            self._data.close()
        self._data = data
        return data

    def receive(self, name: str) -> None:
        """Every byte of it."""
        assert self._data
        with self._data as data:
            received = b"".join(iter(lambda: data.recv(1 << 16), b""))
        self._data = self._peer = None
        assert received == _content(_SIZE[name]), f"{len(received)} bytes"

    def finish(self) -> None:
        """The server's word that all is well, on the control connection."""
        self._ftp.voidresp()

    def transfer(self, name: str = SMALL) -> None:
        """A whole one."""
        self.agree()
        self.begin(name)
        self.receive(name)
        self.finish()
