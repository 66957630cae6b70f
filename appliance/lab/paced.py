"""Traffic in small pieces with answers: byte streams and datagrams; runs inside a lab host.

Every flow has three parts: `open` returns when it stands, `carry` goes on until the stop or its
death, `finish` shows that it still carries.
"""

from __future__ import annotations

import os
import random
import select
import socket
import struct
import subprocess
import time
from typing import Any

from appliance.lab.meter import Meter, Stop

# After `stop` an answer may still be on its way: TCP backs off to a few seconds in an interruption,
# and when many flows end at once an emulated machine has no time for anybody.
DRAIN = 15.0
SETUP = 60.0  # seconds for a connection to stand; many at once take long in an emulated machine
LETTERS = b"abcdefghijklmnopqrstuvwxyz"


# Linux's number for kernel timestamps of what arrives (include/uapi/asm-generic/socket.h).
SO_TIMESTAMPNS = 35
TIMESPEC = struct.Struct("@qq")


def pace(flow: Paced, stop: Stop) -> None:
    """Send at the flow's interval, until the stop or its death.

    Answers are taken when the next piece is due: to wake for each would double the work of an
    emulated processor. A flow without an interval waits for its end only.
    """
    due = time.monotonic()
    watched = [stop.fileno()] if flow.interval else [stop.fileno(), flow.descriptor()]
    while flow.meter.alive:
        pause = max(0.0, due - time.monotonic()) if flow.interval else None
        ready = select.select(watched, [], [], pause)[0]
        flow.receive()
        if stop.fileno() in ready:
            return
        if flow.interval and flow.meter.alive:
            flow.send()
            due = max(due + flow.interval, time.monotonic())


class Stream:
    """A byte stream to an echo: whatever comes back must be what was sent, in order, to the last
    byte.

    `interval` None sends nothing until the end: an idle connection. Without `greeting` nothing is
    sent before it stands.
    """

    def __init__(
        self, meter: Meter, interval: float | None, size: int, greeting: bool = True
    ) -> None:
        self.meter = meter
        self.interval = interval
        self.size = size
        self.greeting = greeting
        self.letters = random.Random(1)
        self.awaited = bytearray()

    def connect(self) -> None:
        """Make the connection."""
        raise NotImplementedError

    def descriptor(self) -> int:
        """What becomes readable when an answer comes."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Send bytes."""
        raise NotImplementedError

    def send(self) -> None:
        """Send the next piece."""
        piece = bytes(self.letters.choices(LETTERS, k=self.size))
        self.give(piece, piece)

    def give(self, data: bytes, awaited: bytes) -> None:
        """Send this, and await that."""
        self.awaited += awaited
        self.meter.sent += len(awaited)
        try:
            self.write(data)
        except OSError as error:
            self.meter.died(f"cannot send: {error}")

    def receive(self) -> None:
        """Take what came, if anything did."""
        try:
            data = os.read(self.descriptor(), 65536)
        except BlockingIOError:
            return
        except OSError as error:
            self.meter.died(f"cannot receive: {error}")
            return
        if data:
            self.take(data)
        else:
            self.meter.died("the other side closed the connection")

    def take(self, data: bytes) -> None:
        """Compare what came."""
        if self.awaited.startswith(data):
            del self.awaited[: len(data)]
            self.meter.answer(len(data))
        else:
            self.meter.damaged("the stream is broken: other bytes came than were sent")
            self.meter.died("the stream is broken")

    def open(self) -> None:
        """The connection stands when a first piece has come back."""
        self.connect()
        if self.greeting:
            self.send()
            self.drain(SETUP)
        if self.awaited:
            raise ConnectionError(self.meter.note or f"no echo within {SETUP:g} s")

    def carry(self, stop: Stop) -> None:
        """Until the stop, or the connection's end."""
        pace(self, stop)

    def finish(self) -> None:
        """One last piece shows that the connection still carries; then all answers must come."""
        if self.interval is None:
            self.meter.begin()  # the stall of an idle connection is that of its one answer
        self.meter.quiet()
        if self.meter.alive:
            self.send()
        self.drain(DRAIN)
        if self.awaited:
            self.meter.whole = False
            self.meter.died(f"{len(self.awaited)} bytes never came back")

    def drain(self, seconds: float) -> None:
        """Wait for the answers that are due."""
        deadline = time.monotonic() + seconds
        while self.awaited and self.meter.alive:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.descriptor()], [], [], left)[0]:
                return
            self.receive()


class Tcp(Stream):
    """A TCP connection to an echo service."""

    def __init__(
        self, meter: Meter, to: str, port: int, source: str | None = None, **stream: Any
    ) -> None:
        super().__init__(meter, **stream)
        self.target = (to, port)
        self.source = (source, 0) if source else None

    def connect(self) -> None:
        """Its pieces leave at once, so that each has a time of its own."""
        self.end = socket.create_connection(self.target, SETUP, self.source)
        self.end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.end.setblocking(False)

    def descriptor(self) -> int:
        """The socket."""
        return self.end.fileno()

    def write(self, data: bytes) -> None:
        """Into the socket; its buffer is far larger than what an interruption lets pile up."""
        self.end.sendall(data)


class Command(Stream):
    """A program whose output repeats its input: OpenSSH's client with `cat` at the far end."""

    def __init__(self, meter: Meter, argv: list[str], **stream: Any) -> None:
        super().__init__(meter, **stream)
        self.argv = argv

    def connect(self) -> None:
        """Start the program."""
        self.process = subprocess.Popen(self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin
        assert self.process.stdout
        self.inward, self.outward = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.outward, False)

    def descriptor(self) -> int:
        """The program's output."""
        return self.outward

    def write(self, data: bytes) -> None:
        """Into the program's input."""
        os.write(self.inward, data)


class Ssh(Command):
    """OpenSSH's client as people run it, but for keepalives, which would hide or cause an end."""

    def __init__(
        self, meter: Meter, to: str, port: int, key: str, source: str | None = None, **stream: Any
    ) -> None:
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes")
        words = ["ssh", "-F", "none", "-T", "-q", "-i", key, "-p", str(port)]
        words += [word for option in (*options, "TCPKeepAlive=no") for word in ("-o", option)]
        words += ["-b", source] if source else []
        super().__init__(meter, [*words, f"root@{to}", "cat"], **stream)


class Datagrams:
    """Numbered datagrams, each to be echoed; what is lost is lost, the stall is the measure."""

    def __init__(
        self, meter: Meter, to: str, port: int, interval: float, source: str | None = None
    ) -> None:
        self.meter = meter
        self.interval = interval
        self.number = self.first = 0
        self.seen: set[int] = set()
        family = socket.AF_INET6 if ":" in to else socket.AF_INET
        self.end = self.socket(family)
        self.end.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        if source:
            self.end.bind((source, 0))
        self.end.connect((to, port))
        self.end.setblocking(False)

    def socket(self, family: socket.AddressFamily) -> socket.socket:
        """The kind of socket."""
        return socket.socket(family, socket.SOCK_DGRAM)

    def pack(self, number: int) -> bytes:
        """The packet with this number."""
        return struct.pack("!Q", number)

    def unpack(self, data: bytes) -> int | None:
        """The number in an answer; None when it is none of ours."""
        return int(struct.unpack("!Q", data)[0]) if len(data) == 8 else None

    def descriptor(self) -> int:
        """The socket."""
        return self.end.fileno()

    def send(self) -> None:
        """Send the next number; no route, a refusal or no carrier are interruptions like others."""
        self.number += 1
        self.meter.sent += 1
        try:
            self.end.send(self.pack(self.number))
        except OSError as error:
            self.meter.note = str(error)

    def receive(self) -> None:
        """Take the answers that have come; one that comes twice counts once."""
        while True:
            try:
                data, stamps, _, _ = self.end.recvmsg(2048, socket.CMSG_SPACE(TIMESPEC.size))
            except BlockingIOError:
                return
            except OSError as error:
                self.meter.note = str(error)
                return
            number = self.unpack(data)
            if number is not None and number not in self.seen:
                self.seen.add(number)
                self.meter.answer(age=age(stamps))

    def ask(self, seconds: float) -> bool:
        """Send now and then until an answer comes; whether one did."""
        end = due = time.monotonic()
        before = len(self.seen)
        while len(self.seen) == before and (now := time.monotonic()) < end + seconds:
            if now >= due:
                self.send()
                due = now + 0.1
            if select.select([self.end], [], [], due - now)[0]:
                self.receive()
        return len(self.seen) > before

    def open(self) -> None:
        """The path stands when a first answer has come; what was lost before does not count."""
        if not self.ask(SETUP):
            raise ConnectionError(f"no echo within {SETUP:g} s ({self.meter.note})")
        self.first = self.number + 1
        self.seen = set(range(self.first))
        self.meter.sent = self.meter.received = 0

    def carry(self, stop: Stop) -> None:
        """Until the stop: no silence ends it."""
        pace(self, stop)

    def finish(self) -> None:
        """Alive means that an answer still comes; what is sent to learn that does not count."""
        self.meter.quiet()
        ours = range(self.first, self.number + 1)
        self.meter.alive = self.ask(DRAIN)
        self.meter.sent = len(ours)
        self.meter.received = len(self.seen & set(ours))


class Ping(Datagrams):
    """The same with ICMP echo requests (RFC 792, RFC 4443)."""

    def socket(self, family: socket.AddressFamily) -> socket.socket:
        """A raw socket sees every ICMP message of the host: `unpack` sorts them."""
        self.six = family == socket.AF_INET6
        self.identity = os.getpid() & 0xFFFF
        number = socket.IPPROTO_ICMPV6 if self.six else socket.IPPROTO_ICMP
        return socket.socket(family, socket.SOCK_RAW, number)

    def pack(self, number: int) -> bytes:
        """An echo request; the kernel adds ICMPv6's checksum but not ICMP's."""
        kind = 128 if self.six else 8
        body = struct.pack("!HHQ", self.identity, number & 0xFFFF, number)
        total = (kind << 8) + sum(struct.unpack("!6H", body))
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        return struct.pack("!BBH", kind, 0, 0 if self.six else ~total & 0xFFFF) + body

    def unpack(self, data: bytes) -> int | None:
        """The number of an echo reply with our identity; IPv4 hands the IP header up as well."""
        if not self.six:
            data = data[(data[0] & 0x0F) * 4 :]
        if len(data) != 16 or data[0] != (129 if self.six else 0):
            return None
        _, _, _, identity, _, number = struct.unpack("!BBHHHQ", data)
        return int(number) if identity == self.identity else None


def age(stamps: list[tuple[int, int, bytes]]) -> float:
    """Seconds since the kernel received what came with these ancillary data."""
    for level, kind, data in stamps:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, nanoseconds = TIMESPEC.unpack(data)
            return time.time() - float(seconds) - float(nanoseconds) / 1e9
    return 0.0


Paced = Stream | Datagrams
