"""The kernel's table of connections, over ctnetlink (linux/netfilter/nfnetlink_conntrack.h)."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address

from appliance.node.netlink import ATTRIBUTE, HEADER, Address, attributes, connect, dump

_NETFILTER = 12  # NETLINK_NETFILTER
_GET, _DELETE = 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_*
_GENERIC = struct.Struct("=BBH")  # struct nfgenmsg: family, version, resource
_REQUEST = 0x1  # NLM_F_REQUEST, without an acknowledgement: errors are answered all the same
_ORIGINAL, _REPLY, _ID = 1, 2, 12  # CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID
_ADDRESSES = 1  # CTA_TUPLE_IP; in it are only addresses
_NESTED = 0x8000
_BATCH = 64


def forget(own: frozenset[Address], superseded: Callable[[], bool], limit: float) -> int:
    """Delete connections that only pass through; how many. Those of `own` addresses stay.

    Ends when the table has been read, after `limit` seconds, or as soon as `superseded` says so,
    which is asked each few dozen entries. OSError when the kernel refuses.
    """
    deadline, gone = time.monotonic() + limit, 0
    with connect(_NETFILTER) as reader, connect(_NETFILTER) as writer:
        writer.setblocking(False)
        for batch in _batches(_passing(reader, own)):
            if superseded() or time.monotonic() > deadline:
                break
            writer.send(b"".join(batch))
            _discard_answers(writer)
            gone += len(batch)
    return gone


def _passing(reader: socket.socket, own: frozenset[Address]) -> Iterator[bytes]:
    """For each connection that ends on no address of ours, the message that deletes it."""
    for payload in dump(reader, _GET, _GENERIC.pack(socket.AF_UNSPEC, 0, 0)):
        family = payload[0]
        found = dict(attributes(payload[_GENERIC.size :]))
        ends = {end for each in (_ORIGINAL, _REPLY) for end in _ends(found[each])}
        if not ends & own:
            yield _deletion(family, found[_ORIGINAL], found[_ID])


def _ends(pair: bytes) -> Iterator[Address]:
    """Source and destination of one direction."""
    for _, raw in attributes(dict(attributes(pair))[_ADDRESSES]):
        yield ip_address(raw)


def _deletion(family: int, original: bytes, identity: bytes) -> bytes:
    """By tuple and by identity: a successor with the same tuple is another connection."""
    body = _GENERIC.pack(family, 0, 0)
    for kind, content in ((_ORIGINAL | _NESTED, original), (_ID, identity)):
        body += ATTRIBUTE.pack(ATTRIBUTE.size + len(content), kind) + content
    return HEADER.pack(HEADER.size + len(body), _DELETE, _REQUEST, 0, 0) + body


def _batches(messages: Iterator[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for message in messages:
        batch.append(message)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _discard_answers(writer: socket.socket) -> None:
    """An entry that is gone already is as good as deleted."""
    try:
        while writer.recv(1 << 16):
            pass
    except BlockingIOError:
        return
