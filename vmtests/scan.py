"""Which ports of an address answer: `python3 scan.py tcp|udp SOURCE TARGET SECONDS PORTS…`.

Standard library only: it runs on a host of the lab. One packet to each port, twice over, as fast as
they can be sent; then it waits SECONDS for the last answers. It prints JSON: the ports that are
`open` (a SYN was taken, a datagram answered) and those that are `refused` (by RST, or by ICMP). A
port that is in neither was silent. PORTS are ranges, as 1-1024.

TCP's packets are made here, since a socket for each of 65535 ports takes an emulated machine
minutes. Hosts tell of few closed UDP ports (Linux: of one in a second, after six at once): what
matters is whether they tell of any.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from collections.abc import Iterable, Iterator

ROUNDS = 2
BURST = 64  # packets between two looks for answers
SYN, RST, SYN_ACK = 0x02, 0x04, 0x12
UNREACHABLE, PORT = 3, 3  # RFC 792


def summed(data: bytes) -> int:
    """The sum of 16-bit words that Internet checksums are made of, without its carries."""
    return sum(struct.unpack(f"!{len(data) // 2}H", data))


def syn(source: str, target: str, own: int, port: int) -> bytes:
    """A segment that opens a connection (RFC 9293)."""
    head = struct.pack("!HHIIBBH", own, port, 1, 0, 5 << 4, SYN, 1024)
    pseudo = socket.inet_aton(source) + socket.inet_aton(target)
    pseudo += struct.pack("!HH", socket.IPPROTO_TCP, len(head) + 4)
    total = summed(pseudo + head)
    total = (total & 0xFFFF) + (total >> 16)
    return head + struct.pack("!HH", ~(total + (total >> 16)) & 0xFFFF, 0)


def packets(end: socket.socket, seconds: float) -> Iterator[bytes]:
    """What has come in, without the IP header where there is one; until `seconds` are silent."""
    while select.select([end], [], [], seconds)[0]:
        yield end.recv(2048)


class Tcp:
    """Raw segments from a port that a socket of ours holds."""

    def __init__(self, source: str, target: str) -> None:
        self.source, self.target = source, target
        self.holder = socket.socket()
        self.holder.bind((source, 0))
        self.own = self.holder.getsockname()[1]
        self.raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
        self.raw.bind((source, 0))
        self.open: set[int] = set()
        self.refused: set[int] = set()

    def ask(self, port: int) -> None:
        self.raw.sendto(syn(self.source, self.target, self.own, port), (self.target, 0))

    def listen(self, seconds: float) -> None:
        for packet in packets(self.raw, seconds):
            segment = packet[(packet[0] & 15) * 4 :]
            port, own = struct.unpack_from("!HH", segment)
            if socket.inet_ntoa(packet[12:16]) == self.target and own == self.own:
                if segment[13] & RST:
                    self.refused.add(port)
                elif segment[13] & SYN_ACK == SYN_ACK:
                    self.open.add(port)


class Udp:
    """Datagrams from one socket; a raw one hears what ICMP says of them."""

    def __init__(self, source: str, target: str) -> None:
        self.target = target
        self.end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.end.bind((source, 0))
        self.icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self.open: set[int] = set()
        self.refused: set[int] = set()

    def ask(self, port: int) -> None:
        self.end.sendto(b"hello", (self.target, port))

    def listen(self, seconds: float) -> None:
        while ready := select.select([self.end, self.icmp], [], [], seconds)[0]:
            if self.end in ready:
                _, (address, port) = self.end.recvfrom(2048)
                self.open |= {port} if address == self.target else set()
            if self.icmp in ready:
                self.told(self.icmp.recv(2048))

    def told(self, packet: bytes) -> None:
        message = packet[(packet[0] & 15) * 4 :]
        about = message[8:]  # the header of our datagram, and its ports
        if message[0] == UNREACHABLE and socket.inet_ntoa(about[16:20]) == self.target:
            at = (about[0] & 15) * 4
            own, port = struct.unpack_from("!HH", about, at)
            if own == self.end.getsockname()[1]:
                self.refused.add(port)


def ports(words: Iterable[str]) -> list[int]:
    """Every port of the ranges, once."""
    ends = (map(int, word.split("-")) for word in words)
    return sorted({port for first, last in ends for port in range(first, last + 1)})


def main() -> None:
    """Run with the arguments of this module's docstring."""
    protocol, source, target, seconds, *ranges = sys.argv[1:]
    scan = {"tcp": Tcp, "udp": Udp}[protocol](source, target)
    wanted = ports(ranges)
    begin = time.monotonic()
    for _ in range(ROUNDS):
        for at in range(0, len(wanted), BURST):
            for port in wanted[at : at + BURST]:
                scan.ask(port)
            scan.listen(0)
    scan.listen(float(seconds))
    told = {"open": sorted(scan.open), "refused": sorted(scan.refused)}
    print(json.dumps(told | {"seconds": time.monotonic() - begin}))


if __name__ == "__main__":
    main()
