"""The kernel's tables of connections and of expectations, over ctnetlink."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from itertools import islice

from appliance.node import ctnetlink
from appliance.node.ctnetlink import GENERIC, NESTED, REQUEST, Connection, Expectation, Kind, Master
from appliance.node.netlink import ERROR, HEADER, Address, attributes, connect, dump, messages

_NETFILTER = 12  # NETLINK_NETFILTER
_ADDRESSES = 1  # CTA_TUPLE_IP; in it are only addresses
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_EXPECTATION_NEW, _EXPECTATION_GONE = 4, 6  # NFNLGRP_CONNTRACK_EXP_*
_SO_RCVBUFFORCE = 33
_BUFFER = 4 << 20  # bytes: some thousand events, should this process not run for a moment
_BATCH = 64
AT_ONCE = 64
_EVENTS = 100_000  # far more than the buffer holds


def forget(own: frozenset[Address], superseded: Callable[[], bool], limit: float) -> int:
    """Delete connections that only pass through; how many. Those of `own` addresses stay.

    Ends when the table has been read, after `limit` seconds, or as soon as `superseded` says so,
    which is asked each few dozen entries. OSError when the kernel refuses.
    """
    deadline = time.monotonic() + limit
    return _write(_passing(own), lambda: superseded() or time.monotonic() > deadline)


def renew(stop: Callable[[], bool]) -> int:
    """Give the established connections their whole timeout again; how many had not half of it.

    Ends when `stop` says so, which is asked each few dozen entries, and may take its time. OSError
    when the kernel refuses.
    """
    request = ctnetlink.with_status(ctnetlink.ASSURED)
    return _write((ctnetlink.renewal(*each) for each in _connections(request)), stop)


def _write(messages: Iterator[bytes | None], stop: Callable[[], bool]) -> int:
    """Send what is a message; how many. `stop` is asked each few dozen, before they are sent."""
    count = 0
    with writer() as link:
        while (batch := list(islice(messages, _BATCH))) and not stop():
            wanted = [each for each in batch if each]
            if wanted:
                link.send(b"".join(wanted))
                discard_answers(link)
            count += len(wanted)
    return count


def _passing(own: frozenset[Address]) -> Iterator[bytes | None]:
    """For each connection that ends on no address of ours, the message that deletes it."""
    for family, found in _connections(ctnetlink.body(socket.AF_UNSPEC)):
        ends = {
            end for each in (Connection.ORIGINAL, Connection.REPLY) for end in _ends(found[each])
        }
        passes = not ends & own
        original, identity = found[Connection.ORIGINAL], found[Connection.ID]
        yield _deletion(family, original, identity) if passes else None


def _connections(request: bytes) -> Iterator[tuple[int, dict[int, bytes]]]:
    """Family and attributes of each."""
    with connect(_NETFILTER) as link:
        for payload in dump(link, Kind.GET, request):
            yield payload[0], dict(attributes(payload[GENERIC.size :]))


def _ends(pair: bytes) -> Iterator[Address]:
    """Source and destination of one direction."""
    for _, raw in attributes(dict(attributes(pair))[_ADDRESSES]):
        yield ip_address(raw)


def _deletion(family: int, original: bytes, identity: bytes) -> bytes:
    """By tuple and by identity: a successor with the same tuple is another connection."""
    named = (Connection.ORIGINAL | NESTED, original), (Connection.ID, identity)
    # Without an acknowledgement: errors are answered all the same.
    return ctnetlink.message(Kind.DELETE, REQUEST, 0, ctnetlink.body(family, *named))


def discard_answers(link: socket.socket) -> None:
    """Empty a writer's socket. An entry that is gone already is as good as deleted."""
    with suppress(BlockingIOError):
        while link.recv(1 << 16):
            pass


def watch() -> socket.socket:
    """A socket, which does not wait, that hears of each expectation that comes or goes."""
    link = connect(_NETFILTER)
    link.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    for group in (_EXPECTATION_NEW, _EXPECTATION_GONE):
        link.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    link.setblocking(False)
    return link


def waiting(link: socket.socket) -> Iterator[bytes]:
    """What waits in a socket that does not wait; at some point other sockets have their turn."""
    with suppress(BlockingIOError):
        for _ in range(AT_ONCE):
            yield link.recv(1 << 16)


def discard_events(link: socket.socket) -> None:
    """Empty a socket whose events are incomplete anyhow, before the tables are read instead."""
    for _ in range(_EVENTS):
        try:
            link.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:  # still more were lost
            continue


def expectations() -> list[tuple[Expectation, int]]:
    """All that are there, with their seconds left."""
    with connect(_NETFILTER) as link:
        request = ctnetlink.body(socket.AF_UNSPEC)
        return [ctnetlink.unpack(each) for each in dump(link, Kind.GET_EXPECTATION, request)]


def adjusted() -> list[Master]:
    """The connections whose TCP sequence is shifted: those where a helper changed a line."""
    request = ctnetlink.with_status(ctnetlink.SEQUENCE_ADJUSTED)
    with connect(_NETFILTER) as link:
        return [ctnetlink.master_of(each) for each in dump(link, Kind.GET, request)]


def writer() -> socket.socket:
    """A socket for requests whose answers do not matter."""
    link = connect(_NETFILTER)
    link.setblocking(False)
    return link


def touch(link: socket.socket, masters: list[Master]) -> None:
    """Have the kernel tell all listeners about these connections; those that are gone are none."""
    for begin in range(0, len(masters), _BATCH):
        link.send(b"".join(map(ctnetlink.touch, masters[begin : begin + _BATCH])))
        discard_answers(link)


def create(wanted: list[tuple[Expectation, int]]) -> list[int]:
    """Create expectations with so many seconds to live; for each its errno, 0 if it is there.

    One that is in the way is removed: it is of an earlier time as the active node.
    """
    errors: list[int] = []
    with connect(_NETFILTER) as link:
        for begin in range(0, len(wanted), _BATCH // 2):
            errors += _create(link, wanted[begin : begin + _BATCH // 2])
    return errors


def _create(link: socket.socket, wanted: list[tuple[Expectation, int]]) -> list[int]:
    request = b""
    for number, (expectation, seconds) in enumerate(wanted, 1):
        request += ctnetlink.deletion(expectation) + ctnetlink.creation(expectation, number)
        request += ctnetlink.shorten(expectation, seconds)
    link.send(request)
    answers: dict[int, int] = {}
    while len(answers) < len(wanted):
        answers |= dict(_answers(link.recv(1 << 16)))
    return [answers[number] for number in range(1, len(wanted) + 1)]


def _answers(data: bytes) -> Iterator[tuple[int, int]]:
    """Number and errno of each numbered answer: struct nlmsgerr, with the header of the request."""
    for kind, payload in messages(data):
        number = HEADER.unpack_from(payload, 4)[3]
        if kind == ERROR and number:
            yield number, -struct.unpack_from("=i", payload)[0]
