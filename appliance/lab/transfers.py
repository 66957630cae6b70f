"""FTP in the phases in which a fault may find it; runs inside a lab host, standard library only."""

from __future__ import annotations

import array
import fcntl
import hashlib
import os
import random
import socket
import termios
from contextlib import suppress
from typing import Any

from appliance.lab.ftp import Client, doing
from appliance.lab.meter import Meter, Stop
from appliance.lab.paced import DRAIN, SETUP

BLOCK = 65536
LONGEST_TICK = 1.0  # seconds between two pieces of a throttled transfer
# A throttled download must not gather in the receiver's buffer, where no fault would reach it: room
# for two packets. The window follows (tcp(7)), and has to be let out for the rest.
BUFFER = 4096
LARGE = 4 * BLOCK
# The kernel forgets an expectation of FTP's data connection after 300 s (ftp_exp_policy in
# net/netfilter/nf_conntrack_ftp.c); one that is to be held any longer has to be asked for anew.
RENEW = 200.0


class Session:
    """Logged in and silent; at the stop the server must still answer."""

    def __init__(self, meter: Meter, to: str, port: int, source: str | None = None) -> None:
        self.meter = meter
        self.to = to
        self.port = port
        self.source = (source, 0) if source else None
        self.client = Client(timeout=SETUP)

    def open(self) -> None:
        """Connect and log in."""
        with doing("login"):
            self.client.connect(self.to, self.port, source_address=self.source)
            self.client.login()
            self.client.voidcmd("TYPE I")

    def carry(self, stop: Stop) -> None:
        """Send nothing."""
        stop.wait(None)

    def finish(self) -> None:
        """Measure from here: what was silent by intention is no stall."""
        self.meter.begin()
        self.client.hurry()
        self.last()
        self.check()

    def last(self) -> None:
        """What is done at the stop, before the last command."""

    def check(self) -> None:
        """The control connection answers a command."""
        self.meter.sent += 1
        with doing("NOOP"):
            self.client.voidcmd("NOOP")
        self.meter.answer()


class File(Session):
    """With a file of the server, whose length and SHA-256 are known, fetched in one mode."""

    def __init__(
        self, meter: Meter, *, mode: str, file: str, size: int, sha256: str, **server: Any
    ) -> None:
        super().__init__(meter, **server)
        self.mode = mode
        self.file = file
        self.size = size
        self.sha256 = sha256

    def request(self) -> None:
        """Begin to fetch it over the data connection that was asked for."""
        self.end = self.client.use(f"RETR {self.file}")
        self.meter.sent += self.size
        self.digest = hashlib.sha256()

    def take(self, count: int) -> bytes:
        """The next bytes of it; none at its end."""
        data = self.end.recv(count)
        self.digest.update(data)
        return data

    def rest(self) -> None:
        """All that is still to come, as fast as it comes."""
        with doing(f"RETR {self.file}"):
            while data := self.take(BLOCK):
                self.meter.answer(len(data))
        self.complete()

    def complete(self) -> None:
        """The end of the transfer: the server says so, and every byte is right."""
        self.end.close()
        with doing(f"the end of RETR {self.file}"):
            self.client.voidresp()
        if self.digest.hexdigest() != self.sha256:
            self.meter.damaged(f"{self.file} came with other bytes than it has")


class Next(File):
    """A control connection that has had a transfer; at the stop there is a new one on it.

    The first has shifted the sequence numbers, where NAT rewrote the address in a command or an
    answer.
    """

    def open(self) -> None:
        """Stands after the first transfer."""
        super().open()
        self.last()

    def last(self) -> None:
        """A transfer from its first command to its end."""
        self.client.ask(self.mode)
        self.request()
        self.rest()


class Held(File):
    """The data connection is asked for, and only used at the stop.

    Asked for anew each `renew` seconds, because the kernel of the firewall forgets.
    """

    def __init__(self, meter: Meter, renew: float = RENEW, **file: Any) -> None:
        super().__init__(meter, **file)
        self.renew = renew

    def open(self) -> None:
        """Stands when the server has answered."""
        super().open()
        self.client.ask(self.mode)

    def carry(self, stop: Stop) -> None:
        """Hold it."""
        while not stop.wait(self.renew):
            self.client.ask(self.mode)

    def last(self) -> None:
        """Use it."""
        self.request()
        self.rest()


class Download(File):
    """A transfer under way, `rate` bytes a second; a file that ends is followed by the next.

    At the stop the rest comes as fast as it can. The stall is that of arrival: bytes that wait in
    our buffer have arrived.
    """

    def __init__(self, meter: Meter, rate: float, **file: Any) -> None:
        super().__init__(meter, **file)
        self.tick = min(LONGEST_TICK, BLOCK / rate)
        self.piece = max(1, int(rate * self.tick))
        self.buffer = max(BUFFER, 2 * self.piece)

    def open(self) -> None:
        """Stands when first bytes have come."""
        super().open()
        self.start()
        with doing("first bytes"):
            self.meter.answer(len(self.take(self.piece)))
        self.counted = self.taken = self.meter.received

    def start(self) -> None:
        """Begin a transfer."""
        self.client.ask(self.mode, self.buffer)
        self.request()
        self.counted = self.taken = 0

    def carry(self, stop: Stop) -> None:
        """A piece at each tick, as far as it has arrived."""
        while not stop.wait(self.tick):
            self.end.setblocking(False)
            with suppress(BlockingIOError), doing(f"RETR {self.file}"):
                self.turn()

    def turn(self) -> None:
        """One piece."""
        wanted = self.piece
        self.count()
        while wanted:
            data = self.take(min(wanted, BLOCK))
            if not data:
                self.complete()
                self.start()
                return
            wanted -= len(data)
            self.taken += len(data)
            self.count()

    def count(self) -> None:
        """Take into account what has arrived since the last look."""
        arrived = self.taken + pending(self.end, termios.FIONREAD)
        if arrived > self.counted:
            self.meter.answer(arrived - self.counted)
            self.counted = arrived

    def finish(self) -> None:
        """The rest, and a last command."""
        self.count()
        self.meter.quiet()
        self.meter.received -= self.counted - self.taken  # `rest` counts what it takes
        self.client.hurry()
        self.end.settimeout(DRAIN)
        self.end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LARGE)
        self.end.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, LARGE)
        self.rest()
        self.check()


class Upload(Session):
    """A transfer of random bytes under way, `rate` bytes a second, into `file` of the server.

    The stall is that of the acknowledgements. `stored` is where the server keeps the file: it is
    compared at the end of the transfer, and removed. At the stop, or after `size` bytes, the
    transfer ends; a new one follows only on the latter.
    """

    def __init__(
        self,
        meter: Meter,
        *,
        mode: str,
        file: str,
        stored: str,
        size: int,
        rate: float,
        **server: Any,
    ) -> None:
        super().__init__(meter, **server)
        self.mode = mode
        self.file = file
        self.stored = stored
        self.size = size
        self.tick = min(LONGEST_TICK, BLOCK / rate)
        self.piece = max(1, int(rate * self.tick))
        self.random = random.Random()

    def open(self) -> None:
        """Stands when the server takes it, and first bytes are on their way."""
        super().open()
        self.start()
        self.send(self.piece)

    def start(self) -> None:
        """Begin a transfer."""
        self.client.ask(self.mode)
        self.end = self.client.use(f"STOR {self.file}")
        self.digest = hashlib.sha256()
        self.counted = self.given = 0

    def send(self, count: int) -> None:
        """Give the kernel so many bytes more; BlockingIOError when it does not take them now."""
        data = self.random.randbytes(count)
        while data:
            taken = self.end.send(data)
            self.digest.update(data[:taken])
            self.given += taken
            self.meter.sent += taken
            data = data[taken:]

    def carry(self, stop: Stop) -> None:
        """A piece at each tick."""
        while not stop.wait(self.tick):
            self.end.setblocking(False)
            self.count()
            with suppress(BlockingIOError), doing(f"STOR {self.file}"):
                self.send(self.piece)
            if self.given >= self.size:
                self.complete()
                self.start()

    def count(self) -> None:
        """Take into account what was acknowledged since the last look."""
        acknowledged = self.given - pending(self.end, termios.TIOCOUTQ)
        if acknowledged > self.counted:
            self.meter.answer(acknowledged - self.counted)
            self.counted = acknowledged

    def complete(self) -> None:
        """End the transfer: the server says that it has all of it, and has it byte for byte."""
        self.end.close()
        with doing(f"the end of STOR {self.file}"):
            self.client.voidresp()
        self.meter.answer(self.given - self.counted)
        with open(self.stored, "rb") as file:
            if hashlib.file_digest(file, "sha256").digest() != self.digest.digest():
                self.meter.damaged(f"the server stored other bytes than {self.file} has")
        os.unlink(self.stored)

    def finish(self) -> None:
        """A last burst, the end of the transfer, and a last command."""
        self.count()
        self.meter.quiet()
        self.client.hurry()
        self.end.settimeout(DRAIN)
        with doing(f"STOR {self.file}"):
            self.send(BLOCK)
        self.complete()
        self.check()


def pending(end: socket.socket, request: int) -> int:
    """Bytes in a socket's buffer: not yet read (FIONREAD) or not yet acknowledged (TIOCOUTQ)."""
    answer = array.array("i", [0])
    fcntl.ioctl(end, request, answer)
    return answer[0]
