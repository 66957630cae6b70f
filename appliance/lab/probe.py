"""One side of one probe of the ruleset; runs inside a lab host, Python's standard library only.

`probe listen PROTOCOL ADDRESS PORT` answers until its input ends. `probe send PROTOCOL SOURCE
DESTINATION PORT TOKEN SECONDS` asks once and prints what came of it as JSON: `answer` (answered,
refused, silent, or unreachable) and `port`, the one it sent from.
"""

from __future__ import annotations

import contextlib
import errno
import json
import select
import socket
import struct
import sys
import threading
import time

TCP, UDP = "tcp", "udp"
DOMAIN = 53


def family(address: str) -> socket.AddressFamily:
    """The socket family of an address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def listen(protocol: str, address: str, port: int) -> None:
    """Answer on a port; one that is in use already has a service that answers."""
    kind = socket.SOCK_STREAM if protocol == TCP else socket.SOCK_DGRAM
    with socket.socket(family(address), kind) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            end.bind((address, port))
            threading.Thread(target=answer, args=[protocol, end], daemon=True).start()
        print("ready", flush=True)
        sys.stdin.read()


def answer(protocol: str, end: socket.socket) -> None:
    """Greet each connection, echo each datagram."""
    if protocol == TCP:
        end.listen(8)
        while True:
            connection, _ = end.accept()
            connection.close()
    while True:
        data, peer = end.recvfrom(2048)
        end.sendto(data, peer)


def send_tcp(end: socket.socket, target: tuple[str, int], seconds: float) -> str:
    """Connect; a refusal is told apart from silence."""
    end.settimeout(seconds)
    try:
        end.connect(target)
    except TimeoutError:
        return "silent"
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        return "silent" if error.errno == errno.ETIMEDOUT else "unreachable"
    return "answered"


def send_datagram(
    end: socket.socket, target: tuple[str, int], data: bytes, token: bytes, seconds: float
) -> str:
    """Send, and wait for an answer that holds the token; a raw socket may hear its own question."""
    try:
        end.sendto(data, target)
        deadline = time.monotonic() + seconds
        while select.select([end], [], [], max(0.0, deadline - time.monotonic()))[0]:
            got = end.recv(2048)
            raw = end.type == socket.SOCK_RAW
            if token in got and not (raw and got.endswith(data)):
                return "answered"
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "unreachable"
    return "silent"


def datagram(port: int, token: bytes) -> bytes:
    """What holds the token, so that whoever serves the port repeats it: a name server repeats a
    question (RFC 1035, section 4.1), all others here whatever they get.
    """
    if port != DOMAIN:
        return token
    header = token[:2] + struct.pack("!5H", 0, 1, 0, 0, 0)
    return header + bytes([len(token)]) + token + b"\0" + struct.pack("!HH", 1, 1)


def echo_request(version: int, token: bytes) -> bytes:
    """An ICMP echo request (RFC 792, RFC 4443); for ICMPv6 the kernel adds the checksum."""
    if version == 6:
        return struct.pack("!BBHHH", 128, 0, 0, 0x4C41, 1) + token
    message = struct.pack("!BBHHH", 8, 0, 0, 0x4C41, 1) + token + b"\0" * (len(token) % 2)
    total = sum(struct.unpack(f"!{len(message) // 2}H", message))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return message[:2] + struct.pack("!H", checksum) + message[4:]


def send(protocol: str, source: str, target: tuple[str, int], token: bytes, seconds: float) -> None:
    """Ask once, and print what came of it."""
    here, port = family(source), 0
    if protocol in (TCP, UDP):
        kind = socket.SOCK_STREAM if protocol == TCP else socket.SOCK_DGRAM
        end = socket.socket(here, kind)
        end.bind((source, 0))
        port = end.getsockname()[1]
    else:
        number = socket.IPPROTO_ICMPV6 if here == socket.AF_INET6 else socket.IPPROTO_ICMP
        end = socket.socket(here, socket.SOCK_RAW, number)
        end.bind((source, 0))
        target = (target[0], 0)
    with end:
        if protocol == TCP:
            outcome = send_tcp(end, target, seconds)
        else:
            if protocol == UDP:
                end.connect(target)
            version = 6 if here == socket.AF_INET6 else 4
            udp = protocol == UDP
            data = datagram(target[1], token) if udp else echo_request(version, token)
            outcome = send_datagram(end, target, data, token, seconds)
    print(json.dumps({"answer": outcome, "port": port}), flush=True)


def main() -> None:
    """Run with the arguments of this module's docstring."""
    what, protocol, *rest = sys.argv[1:]
    if what == "listen":
        listen(protocol, rest[0], int(rest[1]))
    else:
        source, destination, port, token, seconds = rest
        send(protocol, source, (destination, int(port)), token.encode(), float(seconds))


if __name__ == "__main__":
    main()
