"""An FTP client that opens data connections exactly as told; runs inside a lab host, standard
library only.
"""

from __future__ import annotations

import ftplib
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from appliance.lab.paced import DRAIN, SETUP


@contextmanager
def doing(what: str) -> Iterator[None]:
    """A failure in this block says in what it happened."""
    try:
        yield
    except Exception as error:
        error.add_note(what)
        raise


class Client(ftplib.FTP):
    """A client that asks for a data connection first and uses it later.

    By PASV or PORT (RFC 959), or by EPSV or EPRT (RFC 2428) over either IP version.
    """

    # What a 227 answer says counts: to make it right is the duty of the NAT that is tested here.
    trust_server_pasv_ipv4_address = True
    listener: socket.socket | None = None
    target: tuple[str, int] | None = None
    buffer: int | None = None

    def ask(self, mode: str, buffer: int | None = None) -> None:
        """Have the server (PASV, EPSV) or us (PORT, EPRT) wait for a data connection.

        `buffer` is that of what we receive on it, in bytes.
        """
        self.buffer = buffer
        if self.listener:
            self.listener.close()
        self.listener = self.target = None
        assert self.sock
        with doing(mode):
            if mode == "PASV":
                self.target = ftplib.parse227(self.sendcmd(mode))
            elif mode == "EPSV":
                self.target = ftplib.parse229(self.sendcmd(mode), self.sock.getpeername())
            else:
                self._wait_for_server(mode)

    def _wait_for_server(self, mode: str) -> None:
        assert self.sock
        own = self.sock.getsockname()[0]
        self.listener = socket.create_server((own, 0), family=self.af, backlog=1)
        self._shrink(self.listener)
        self.listener.settimeout(SETUP)
        port = self.listener.getsockname()[1]
        self.sendport(own, port) if mode == "PORT" else self.sendeprt(own, port)

    def _shrink(self, end: socket.socket) -> None:
        if self.buffer:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.buffer)

    def use(self, command: str) -> socket.socket:
        """The data connection that was asked for, for a command."""
        if self.target:
            with doing(f"data connection to {self.target[0]} port {self.target[1]}"):
                end = self._connect(self.target)
            with doing(command):
                self._preliminary(command)
            return end
        assert self.listener
        with doing(command):
            self._preliminary(command)
        with doing(f"data connection from the server for {command}"):
            end = self.listener.accept()[0]
        end.settimeout(self.listener.gettimeout())
        return end

    def _connect(self, target: tuple[str, int]) -> socket.socket:
        end = socket.socket(self.af, socket.SOCK_STREAM)
        self._shrink(end)
        assert self.sock
        end.settimeout(self.sock.gettimeout())
        if self.source_address:
            end.bind((self.source_address[0], 0))
        end.connect(target)
        return end

    def _preliminary(self, command: str) -> None:
        """Send a command whose answer says that the transfer begins (RFC 959, 4.2: 1yz)."""
        answer = self.sendcmd(command)
        if not answer.startswith("1"):
            raise ftplib.error_reply(answer)

    def hurry(self) -> None:
        """From now on no answer may take longer than a stream's last one."""
        assert self.sock
        self.sock.settimeout(DRAIN)
        if self.listener:
            self.listener.settimeout(DRAIN)
