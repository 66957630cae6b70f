"""Synthetic connections, many at once, over ctnetlink: as if clients behind source NAT had them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address

from appliance.node.netlink import ATTRIBUTE, HEADER, align, connect
from tests.node.netns import inside

_NETFILTER = 12  # NETLINK_NETFILTER
_NETLINK = 270  # SOL_NETLINK
_RCVBUFFORCE = 33  # SO_RCVBUFFORCE
_NEW = 0x100  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW
_FLAGS = 0x1 | 0x400 | 0x200  # NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL: no acknowledgement
_GENERIC = struct.pack("=BBH", socket.AF_INET, 0, 0)  # struct nfgenmsg
_NESTED = 0x8000
# CTA_*, in linux/netfilter/nfnetlink_conntrack.h
_ORIGINAL, _REPLY, _STATUS, _PROTOINFO, _NAT_SRC, _TIMEOUT = 1, 2, 3, 4, 6, 7
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_SEEN_REPLY_ASSURED = 0x2 | 0x4 | 0x8  # IPS_SEEN_REPLY | IPS_ASSURED | IPS_CONFIRMED
_ESTABLISHED = 3  # TCP_CONNTRACK_ESTABLISHED
_LIBERAL = b"\x0a\x0a"  # IP_CT_TCP_FLAG_BE_LIBERAL | _SACK_PERM: value and mask

_TIMEOUT_S = 3600
_PORTS = 50_000  # of one client, all to one server: behind NAT each port is taken once a server
_UDP_EACH = 5
BATCH = 200  # messages, some 32 KiB

VIRTUAL = IPv4Address("192.168.1.100")
_CLIENTS, _SERVERS = IPv4Address("192.168.0.3"), IPv4Address("203.0.113.1")


def messages(number: int, *, nat: bool = True) -> list[bytes]:
    """The messages that create so many connections: four of five TCP, established; one UDP."""
    return [_message(each, nat) for each in range(number)]


def batches(found: list[bytes]) -> Iterator[bytes]:
    """The same, many in one piece."""
    for first in range(0, len(found), BATCH):
        yield b"".join(found[first : first + BATCH])


def writer(namespace: str) -> socket.socket:
    """A socket to the kernel of a network namespace."""
    with inside(namespace):
        link = connect(_NETFILTER)
    link.setblocking(False)  # for `refused`; the kernel has done all of a batch when `send` returns
    return link


def listener(namespace: str) -> socket.socket:
    """A socket that hears of new, changed and ended connections; nobody reads it."""
    with inside(namespace):
        link = connect(_NETFILTER)
    link.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 2**30)
    for group in (1, 2, 3):  # NFNLGRP_CONNTRACK_NEW, _UPDATE, _DESTROY
        link.setsockopt(_NETLINK, 1, group)  # NETLINK_ADD_MEMBERSHIP
    return link


def refused(link: socket.socket) -> int | None:
    """The first error that the kernel has answered, as errno: only failures are answered."""
    try:
        answer = link.recv(1 << 16)
    except BlockingIOError:
        return None
    return -int(struct.unpack_from("=i", answer, HEADER.size)[0])


def _message(number: int, nat: bool) -> bytes:
    udp = number % _UDP_EACH == 0
    client, server = (first + number // _PORTS for first in (_CLIENTS, _SERVERS))
    port = 10_000 + number % _PORTS
    there = 53 if udp else 443
    protocol = socket.IPPROTO_UDP if udp else socket.IPPROTO_TCP
    body = _GENERIC
    body += _nested(_ORIGINAL, _tuple(client, server, protocol, port, there))
    to = client if not nat else VIRTUAL
    body += _nested(_REPLY, _tuple(server, to, protocol, there, port))
    body += _attribute(_STATUS, struct.pack("!I", _SEEN_REPLY_ASSURED))
    body += _attribute(_TIMEOUT, struct.pack("!I", _TIMEOUT_S))
    if not udp:
        body += _nested(_PROTOINFO, _nested(1, _tcp()))  # CTA_PROTOINFO_TCP
    if nat:
        body += _nested(_NAT_SRC, _source_nat(port))
    return HEADER.pack(HEADER.size + len(body), _NEW, _FLAGS, number, 0) + body


def _tuple(source: IPv4Address, to: IPv4Address, protocol: int, port: int, there: int) -> bytes:
    ends = _attribute(1, source.packed) + _attribute(2, to.packed)  # CTA_IP_V4_SRC, _DST
    ports = _attribute(1, bytes([protocol]))  # CTA_PROTO_NUM, _SRC_PORT, _DST_PORT
    ports += _attribute(2, struct.pack("!H", port)) + _attribute(3, struct.pack("!H", there))
    return _nested(_TUPLE_IP, ends) + _nested(_TUPLE_PROTO, ports)


def _tcp() -> bytes:
    """CTA_PROTOINFO_TCP_STATE, _FLAGS_ORIGINAL, _FLAGS_REPLY."""
    return _attribute(1, bytes([_ESTABLISHED])) + _attribute(4, _LIBERAL) + _attribute(5, _LIBERAL)


def _source_nat(port: int) -> bytes:
    """CTA_NAT_V4_MINIP and _MAXIP, CTA_NAT_PROTO with CTA_PROTONAT_PORT_MIN and _MAX."""
    ports = _attribute(1, struct.pack("!H", port)) + _attribute(2, struct.pack("!H", port))
    address = _attribute(1, VIRTUAL.packed) + _attribute(2, VIRTUAL.packed)
    return address + _nested(3, ports)


def _nested(kind: int, content: bytes) -> bytes:
    return _attribute(kind | _NESTED, content)


def _attribute(kind: int, content: bytes) -> bytes:
    length = ATTRIBUTE.size + len(content)
    return ATTRIBUTE.pack(length, kind) + content + bytes(align(length) - length)
