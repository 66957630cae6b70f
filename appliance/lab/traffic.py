"""Traffic that knows what an interruption did to it; runs inside a lab host, standard library only.

`traffic.py KIND JSON` prints `{"ready": true}` once the connection stands, then one report for each
line on its input: `peek` for the figures so far, `stop` (or the end of the input) for the last.
All times come from one monotonic clock, so no clocks need to agree.
"""

from __future__ import annotations

import ftplib
import hashlib
import http.client
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

# After `stop` an answer may still be on its way: TCP backs off to a few seconds in an interruption.
DRAIN = 15.0
LAST_ANSWER = 2.0
SETUP = 30.0  # seconds for a connection to stand
LETTERS = b"abcdefghijklmnopqrstuvwxyz"


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


class Stream:
    """A byte stream to an echo: whatever comes back must be what was sent, in order, to the last
    byte.

    `interval` None sends nothing until the end: an idle connection.
    """

    def __init__(self, meter: Meter, interval: float | None, size: int) -> None:
        self.meter = meter
        self.interval = interval
        self.size = size
        self.letters = random.Random(1)
        self.awaited = bytearray()

    def descriptor(self) -> int:
        """What becomes readable when an answer comes."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Send bytes."""
        raise NotImplementedError

    def send(self) -> None:
        """Send the next piece."""
        piece = bytes(self.letters.choices(LETTERS, k=self.size))
        self.awaited += piece
        self.meter.sent += len(piece)
        try:
            self.write(piece)
        except OSError as error:
            self.meter.died(f"cannot send: {error}")

    def receive(self) -> None:
        """Take what came, and compare."""
        try:
            data = os.read(self.descriptor(), 65536)
        except OSError as error:
            self.meter.died(f"cannot receive: {error}")
            return
        if not data:
            self.meter.died("the other side closed the connection")
        elif self.awaited.startswith(data):
            del self.awaited[: len(data)]
            self.meter.answer(len(data))
        else:
            self.meter.whole = False
            self.meter.died("the stream is broken: other bytes came than were sent")

    def finish(self) -> None:
        """One last piece shows that the connection still carries; then all answers must come."""
        self.meter.quiet() if self.interval is not None else None
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

    def open(self) -> None:
        """The connection stands when a first piece has come back."""
        self.send()
        self.drain(SETUP)
        if self.awaited:
            raise ConnectionError(self.meter.note or f"no echo within {SETUP:g} s")


class Tcp(Stream):
    """A TCP connection to an echo service."""

    def __init__(self, meter: Meter, to: str, port: int, source: str | None, **stream: Any) -> None:
        super().__init__(meter, **stream)
        self.end = socket.create_connection((to, port), SETUP, (source, 0) if source else None)
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
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin
        assert self.process.stdout
        self.inward, self.outward = self.process.stdin.fileno(), self.process.stdout.fileno()

    def descriptor(self) -> int:
        """The program's output."""
        return self.outward

    def write(self, data: bytes) -> None:
        """Into the program's input."""
        os.write(self.inward, data)


class Datagrams:
    """Numbered datagrams, each to be echoed; what is lost is lost, the stall is the measure."""

    def __init__(
        self, meter: Meter, to: str, port: int, source: str | None, interval: float
    ) -> None:
        self.meter = meter
        self.interval = interval
        self.number = self.first = 0
        self.seen: set[int] = set()
        family = socket.AF_INET6 if ":" in to else socket.AF_INET
        self.end = self.socket(family)
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
        """Take an answer; one that comes twice counts once."""
        try:
            number = self.unpack(self.end.recv(2048))
        except OSError as error:
            self.meter.note = str(error)
            return
        if number is None or number in self.seen:
            return
        self.seen.add(number)
        self.meter.answer()

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

    def finish(self) -> None:
        """Alive means that an answer still comes; what is sent to learn that does not count."""
        self.meter.quiet()
        ours = range(self.first, self.number + 1)
        self.meter.alive = self.ask(LAST_ANSWER)
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


Paced = Stream | Datagrams


def pace(flow: Paced, meter: Meter) -> None:
    """Send at the flow's interval and take answers until the host says stop."""
    flow.open()
    commands = Commands()
    meter.begin()
    say(ready=True)
    due = time.monotonic()
    while True:
        now = time.monotonic()
        pause = None if flow.interval is None else max(0.0, due - now)
        listen = [0, flow.descriptor()] if meter.alive else [0]
        ready = select.select(listen, [], [], pause if meter.alive else None)[0]
        if flow.descriptor() in ready:
            flow.receive()
        if flow.interval is not None and meter.alive and time.monotonic() >= due:
            flow.send()
            due = max(due + flow.interval, now)
        if 0 in ready and not obey(commands, meter):
            break
    flow.finish()


def obey(commands: Commands, meter: Meter) -> bool:
    """Answer the host's lines; False at the last."""
    for line in commands.read():
        if line == "stop":
            return False
        say(**meter.report())
    return True


def work(rounds: Callable[[threading.Event], None], meter: Meter) -> None:
    """Have a thread go round while this one listens to the host."""
    stopping = threading.Event()

    def body() -> None:
        try:
            while not stopping.is_set():
                rounds(stopping)
        except (OSError, EOFError, ftplib.Error, http.client.HTTPException) as error:
            meter.died(f"{type(error).__name__}: {error}")

    commands = Commands()
    meter.begin()
    say(ready=True)
    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    while obey(commands, meter):
        pass
    stopping.set()
    thread.join(DRAIN)
    meter.quiet() if meter.alive else None
    if thread.is_alive():
        meter.died(f"still busy {DRAIN:g} s after stop")


def web(meter: Meter, to: str, port: int, source: str | None, interval: float) -> None:
    """A new connection and one request at each interval."""

    def request(stopping: threading.Event) -> None:
        meter.sent += 1
        client = http.client.HTTPConnection(
            to, port, timeout=SETUP, source_address=(source, 0) if source else None
        )
        try:
            client.request("GET", "/")
            answer = client.getresponse()
            meter.whole &= answer.status == 200 and answer.read() == b"lab\n"
            meter.answer()
        except OSError as error:
            meter.note = str(error)
        finally:
            client.close()
        stopping.wait(interval)

    work(request, meter)


def ftp(meter: Meter, to: str, port: int, source: str | None, **how: Any) -> None:
    """One file again and again over one control connection; `rate` in bytes a second."""
    client = ftplib.FTP(timeout=SETUP, source_address=(source, 0) if source else None)
    client.connect(to, port)
    client.login()
    client.set_pasv(how["passive"])

    def transfer(stopping: threading.Event) -> None:
        digest = hashlib.sha256()

        def block(data: bytes) -> None:
            digest.update(data)
            meter.answer(len(data))
            stopping.wait(len(data) / how["rate"])

        meter.sent += client.size(how["file"]) or 0
        client.retrbinary(f"RETR {how['file']}", block)
        meter.whole &= digest.hexdigest() == how["sha256"]

    client.voidcmd("TYPE I")
    work(transfer, meter)


def ssh_argv(to: str, port: int, source: str | None, key: str) -> list[str]:
    """OpenSSH's client as people run it: no keepalive that would hide or cause an end."""
    options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes")
    words = ["ssh", "-F", "none", "-T", "-q", "-i", key, "-p", str(port)]
    words += [word for option in options for word in ("-o", option)]
    return [*words, *(("-b", source) if source else ()), f"root@{to}", "cat"]


def start(kind: str, meter: Meter, options: dict[str, Any]) -> None:
    """Run one kind of traffic to its end."""
    if kind == "http":
        web(meter, **options)
    elif kind == "ftp":
        ftp(meter, **options)
    elif kind == "ssh":
        stream = {name: options.pop(name) for name in ("interval", "size")}
        pace(Command(meter, ssh_argv(**options), **stream), meter)
    elif kind == "command":
        pace(Command(meter, **options), meter)
    else:
        pace({"tcp": Tcp, "udp": Datagrams, "ping": Ping}[kind](meter, **options), meter)


def main() -> None:
    """Run with the arguments of this module's docstring."""
    meter = Meter()
    try:
        start(sys.argv[1], meter, json.loads(sys.argv[2]))
    except OSError as error:
        meter.died(f"never stood: {error}")
    say(**meter.report(), last=True)
    os._exit(0)  # a thread that hangs in a dead connection must not hold up the end


if __name__ == "__main__":
    main()
