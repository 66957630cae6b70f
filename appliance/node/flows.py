"""The connections in the kernel's table, over ctnetlink (linux/netfilter/nfnetlink_conntrack.h)."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

from appliance.node.netlink import attributes, connect, dump

_NETFILTER = 12  # NETLINK_NETFILTER
_GET_CONNECTIONS, _GET_EXPECTATIONS = 0x101, 0x201  # subsystem << 8 | IPCTNL_MSG_*_GET
_EVERYTHING = bytes((socket.AF_UNSPEC, 0, 0, 0))  # struct nfgenmsg
_MESSAGE = len(_EVERYTHING)

# CTA_*
_ORIGINAL, _REPLY, _STATUS, _PROTOCOL_INFO, _HELP, _TIMEOUT = 1, 2, 3, 4, 5, 7
_SHIFTED = (15, 16)  # CTA_SEQ_ADJ_ORIG, CTA_SEQ_ADJ_REPLY
_TUPLE_IP, _TUPLE_PROTOCOL = 1, 2
_EXPECTATION_MASTER = 1
_OFFSET_AFTER = 3  # CTA_SEQADJ_OFFSET_AFTER

_EXPECTED, _REPLIED, _ASSURED = 1, 2, 4  # enum ip_conntrack_status

# enum tcp_conntrack
_TCP_STATES = (
    *("NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT"),
    *("LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"),
)
# The protocols that conntrackd is told to synchronise.
SYNCED = {6: "tcp", 17: "udp", 132: "sctp", 33: "dccp"}
_PROTOCOLS = {**SYNCED, 1: "icmp", 58: "icmpv6"}

Flow = dict[str, Any]


def flows() -> Iterator[Flow]:
    """Every connection, as it will stand in JSON; OSError when the kernel refuses.

    `original` and `reply` are source, source port, destination, destination port of each direction;
    a protocol without ports has zeros. `timeout` is in seconds, `expects` how many connections a
    helper waits for, `shifted` whether NAT has changed the length of the stream.
    """
    expected = _expectations()
    with connect(_NETFILTER) as link:
        for payload in dump(link, _GET_CONNECTIONS, _EVERYTHING):
            found = dict(attributes(payload[_MESSAGE:]))
            yield _flow(found, expected[found[_ORIGINAL]])


def _expectations() -> Counter[bytes]:
    """How many connections each one's helper waits for, by its original direction."""
    with connect(_NETFILTER) as link:
        answers = list(dump(link, _GET_EXPECTATIONS, _EVERYTHING))
    return Counter(dict(attributes(each[_MESSAGE:]))[_EXPECTATION_MASTER] for each in answers)


def _flow(found: dict[int, bytes], expects: int) -> Flow:
    number, original = _direction(found[_ORIGINAL])
    _, reply = _direction(found[_REPLY])
    status = int.from_bytes(found[_STATUS], "big")
    return {
        "number": number,
        "protocol": _PROTOCOLS.get(number, str(number)),
        "original": original,
        "reply": reply,
        "state": _state(number, status, found.get(_PROTOCOL_INFO, b"")),
        "timeout": int.from_bytes(found.get(_TIMEOUT, b""), "big"),
        "expected": bool(status & _EXPECTED),
        "helper": _helper(found.get(_HELP)),
        "expects": expects,
        "shifted": any(_is_shifted(found[each]) for each in _SHIFTED if each in found),
    }


def _direction(pair: bytes) -> tuple[int, list[str | int]]:
    """The protocol's number, and both ends."""
    parts = dict(attributes(pair))
    source, destination = (raw for _, raw in attributes(parts[_TUPLE_IP]))
    protocol = dict(attributes(parts[_TUPLE_PROTOCOL]))
    number = protocol[1][0]
    ports = (int.from_bytes(protocol.get(each, b""), "big") for each in (2, 3))
    source_port, destination_port = ports
    return number, [_text(source), source_port, _text(destination), destination_port]


def _text(raw: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def _state(number: int, status: int, info: bytes) -> str:
    """TCP's own state; of any other protocol, how far the two have talked."""
    if number == socket.IPPROTO_TCP and info:
        inside = dict(attributes(dict(attributes(info))[1]))
        return _TCP_STATES[inside[1][0]]
    if status & _ASSURED:
        return "ASSURED"
    return "REPLIED" if status & _REPLIED else "UNREPLIED"


def _helper(help_: bytes | None) -> str | None:
    return dict(attributes(help_))[1].rstrip(b"\0").decode() if help_ else None


def _is_shifted(adjustment: bytes) -> bool:
    return any(dict(attributes(adjustment)).get(_OFFSET_AFTER, b""))
