"""The little of rtnetlink(7) that the agent needs."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

Address = IPv4Address | IPv6Address

HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type

_REQUEST_DUMP = 0x1 | 0x300  # NLM_F_REQUEST | NLM_F_DUMP
_REQUEST_ACK = 0x1 | 0x4  # NLM_F_REQUEST | NLM_F_ACK
_DONE, ERROR = 3, 2  # NLMSG_DONE, NLMSG_ERROR
_GETADDR = 22  # RTM_GETADDR
_IFADDRMSG = 8  # size of struct ifaddrmsg
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_TYPE = 0x3FFF  # without the flags "nested" and "network byte order"
_LIMIT_S = 5.0


def align(length: int) -> int:
    """Netlink pads everything to four bytes."""
    return (length + 3) & ~3


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each attribute in `data`."""
    at = 0
    while len(data) - at >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(data, at)
        if length < ATTRIBUTE.size:
            return
        yield kind & _TYPE, data[at + ATTRIBUTE.size : at + length]
        at += align(length)


def connect(protocol: int) -> socket.socket:
    """A socket to the kernel; every answer must come within 5 s."""
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    link.settimeout(_LIMIT_S)
    link.bind((0, 0))
    return link


def dump(link: socket.socket, kind: int, body: bytes) -> Iterator[bytes]:
    """The payload of each message that answers a dump request of this type; OSError if refused."""
    link.send(HEADER.pack(HEADER.size + len(body), kind, _REQUEST_DUMP, 1, 0) + body)
    while True:
        for answer, payload in messages(link.recv(1 << 18)):
            if answer == _DONE:
                return
            if answer == ERROR:
                raise OSError(-struct.unpack_from("=i", payload)[0], "netlink dump refused")
            yield payload


def order(link: socket.socket, kind: int, body: bytes) -> None:
    """Have a request of this type carried out; OSError if it is refused, or not answered."""
    link.send(HEADER.pack(HEADER.size + len(body), kind, _REQUEST_ACK, 1, 0) + body)
    for _, payload in messages(link.recv(1 << 16)):
        if code := struct.unpack_from("=i", payload)[0]:
            raise OSError(-code, os.strerror(-code))


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and payload of each message in `data`."""
    while len(data) >= HEADER.size:
        length, kind, *_ = HEADER.unpack_from(data)
        yield kind, data[HEADER.size : length]
        data = data[align(length) :]


def addresses() -> frozenset[Address]:
    """Every address that this machine holds now."""
    with connect(socket.NETLINK_ROUTE) as link:
        family = struct.pack("=B7x", socket.AF_UNSPEC)
        found = [dict(attributes(each[_IFADDRMSG:])) for each in dump(link, _GETADDR, family)]
    # On a point-to-point link IFA_ADDRESS is the other end (rtnetlink(7)).
    raw = (each.get(_IFA_LOCAL) or each.get(_IFA_ADDRESS) for each in found)
    return frozenset(ip_address(each) for each in raw if each)


def holds(virtual: Iterable[Address]) -> bool:
    """Whether this machine holds any of these addresses now."""
    return not addresses().isdisjoint(virtual)


def carrier(interface: str) -> bool:
    """Whether the interface is up and hears its other end."""
    try:
        return Path(f"/sys/class/net/{interface}/carrier").read_text().strip() == "1"
    except OSError:  # missing, or down: the kernel answers EINVAL
        return False
