"""Messages of ctnetlink, as bytes: linux/netfilter/nfnetlink_conntrack.h. No sockets here."""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum

from appliance.node.netlink import ATTRIBUTE, HEADER, align, attributes

GENERIC = struct.Struct("=BBH")  # struct nfgenmsg: family, version, resource
NESTED = 0x8000  # NLA_F_NESTED
REQUEST, ACKNOWLEDGE, CREATE = 0x1, 0x4, 0x400  # NLM_F_*


class Kind(IntEnum):
    """Message types: the subsystem (connections 1, expectations 2) << 8 | what to do."""

    NEW = 0x100
    GET = 0x101
    DELETE = 0x102
    NEW_EXPECTATION = 0x200
    GET_EXPECTATION = 0x201
    DELETE_EXPECTATION = 0x202


class Connection(IntEnum):
    """Attributes of a connection, CTA_*."""

    ORIGINAL = 1
    REPLY = 2
    STATUS = 3
    PROTOCOL_INFO = 4
    TIMEOUT = 7
    ID = 12
    ZONE = 18
    STATUS_MASK = 26


class Part(IntEnum):
    """Attributes of an expectation, CTA_EXPECT_*. The numbers in them are in network order."""

    MASTER = 1
    TUPLE = 2
    MASK = 3
    TIMEOUT = 4
    HELPER = 6
    ZONE = 7
    FLAGS = 8
    CLASS = 9
    NAT = 10
    FUNCTION = 11


ASSURED, SEQUENCE_ADJUSTED = 1 << 2, 1 << 6  # IPS_ASSURED, IPS_SEQ_ADJUST: bits of the status

# Seconds without a packet after which the kernel forgets an established TCP connection, and UDP
# that has gone both ways for a while: its own defaults, made sure of by appliance.render.sysctl.
ESTABLISHED_S, STREAM_S = 432_000, 120

_TUPLE_PROTOCOL, _PROTOCOL_NUMBER = 2, 1  # CTA_TUPLE_PROTO, CTA_PROTO_NUM
_TCP, _UDP = 6, 17
_STATE, _ESTABLISHED = 1, 3  # CTA_PROTOINFO_TCP_STATE, TCP_CONNTRACK_ESTABLISHED
_NUMBER = struct.Struct("!I")
_NEEDED = frozenset({Part.MASTER, Part.TUPLE, Part.MASK})
_NESTS = _NEEDED | {Part.NAT}
_KEPT = frozenset(Part) - {Part.TIMEOUT}
# More than the kernel ever writes: some 250 bytes, 350 with IPv6.
_LARGEST = 1024


@dataclass(frozen=True, slots=True)
class Expectation:
    """A connection that a helper awaits: all that the kernel says of it but the time left."""

    family: int
    parts: tuple[tuple[Part, bytes], ...]

    def part(self, which: Part) -> bytes | None:
        """The content of one attribute, if it is there."""
        return next((content for kind, content in self.parts if kind is which), None)

    @property
    def master(self) -> Master:
        """The connection whose helper awaits it."""
        return Master(self.family, self.part(Part.MASTER) or b"", self.part(Part.ZONE))

    @property
    def key(self) -> bytes:
        """What tells it from the others that are there at the same time."""
        return self.pack(but=frozenset(Part) - {Part.TUPLE, Part.MASK, Part.ZONE})

    def pack(self, but: Collection[Part] = ()) -> bytes:
        """As the body of a message, without some parts; `unpack` reads it."""
        kept = ((kind, content) for kind, content in self.parts if kind not in but)
        return body(self.family, *((kind | (kind in _NESTS) * NESTED, text) for kind, text in kept))


@dataclass(frozen=True, slots=True)
class Master:
    """A connection by its original tuple, in the kernel's own bytes."""

    family: int
    original: bytes
    zone: bytes | None = None


def unpack(payload: bytes) -> tuple[Expectation, int]:
    """An expectation and its seconds left, from a message's body; ValueError if it is none."""
    if len(payload) < GENERIC.size or len(payload) > _LARGEST:
        raise ValueError("not an expectation: size")
    found = dict(attributes(payload[GENERIC.size :]))
    if not found.keys() >= _NEEDED:
        raise ValueError("not an expectation: incomplete")
    parts = tuple((Part(kind), found[kind]) for kind in sorted(found.keys() & _KEPT))
    timeout = found.get(Part.TIMEOUT, b"")
    left = _NUMBER.unpack(timeout)[0] if len(timeout) == _NUMBER.size else 0
    return Expectation(payload[0], parts), left


def body(family: int, *parts: tuple[int, bytes]) -> bytes:
    """The generic header and attributes."""
    return GENERIC.pack(family, 0, 0) + b"".join(attribute(*part) for part in parts)


def attribute(kind: int, content: bytes) -> bytes:
    """One attribute, padded."""
    padding = bytes(align(len(content)) - len(content))
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(content), kind) + content + padding


def message(kind: Kind, flags: int, number: int, payload: bytes) -> bytes:
    """A whole message; `number` comes back with the answer."""
    return HEADER.pack(HEADER.size + len(payload), kind, flags, number, 0) + payload


def touch(master: Master, *changes: tuple[int, bytes]) -> bytes:
    """Update a connection; even with no change the kernel tells all it knows of it, with SEQADJ."""
    zone = [(Connection.ZONE, master.zone)] if master.zone else []
    named = (Connection.ORIGINAL | NESTED, master.original)
    payload = body(master.family, named, *zone, *changes)
    return message(Kind.NEW, REQUEST, 0, payload)


def with_status(bit: int) -> bytes:
    """The body of a dump request: only connections that have this bit."""
    wanted = _NUMBER.pack(bit)
    return body(0, (Connection.STATUS, wanted), (Connection.STATUS_MASK, wanted))


def renewal(family: int, found: Mapping[int, bytes]) -> bytes | None:
    """Give an assured connection its whole timeout again; None if it has half of it, or if its
    state is one that soon ends. `found` are its attributes.
    """
    whole = _timeout(found)
    if whole is None or 2 * _NUMBER.unpack(found[Connection.TIMEOUT])[0] >= whole:
        return None
    connection = Master(family, found[Connection.ORIGINAL], found.get(Connection.ZONE))
    return touch(connection, (Connection.TIMEOUT, _NUMBER.pack(whole)))


def _timeout(found: Mapping[int, bytes]) -> int | None:
    protocol = dict(attributes(dict(attributes(found[Connection.ORIGINAL]))[_TUPLE_PROTOCOL]))
    number = protocol[_PROTOCOL_NUMBER][0]
    if number == _TCP:
        ((_, info),) = attributes(found[Connection.PROTOCOL_INFO])
        return ESTABLISHED_S if dict(attributes(info))[_STATE][0] == _ESTABLISHED else None
    return STREAM_S if number == _UDP else None


def master_of(payload: bytes) -> Master:
    """The connection that an answer to a dump is about."""
    found = dict(attributes(payload[GENERIC.size :]))
    return Master(payload[0], found[Connection.ORIGINAL], found.get(Connection.ZONE))


def deletion(expectation: Expectation) -> bytes:
    """Delete whatever awaits this tuple."""
    payload = expectation.pack(but=frozenset(Part) - {Part.TUPLE, Part.ZONE})
    return message(Kind.DELETE_EXPECTATION, REQUEST, 0, payload)


def creation(expectation: Expectation, number: int) -> bytes:
    """Create it; the answer bears `number`.

    A helper that is named becomes the helper of the awaited connection itself, which for the data
    of FTP would be wrong: lines in a file would be taken for commands. The kernel does not tell
    whether it had one. It takes the policy from the master's helper in any case, and needs the
    name only to accept a class; FTP's is 0.
    """
    plain = not any(expectation.part(Part.CLASS) or b"")
    payload = expectation.pack(but=(Part.HELPER, Part.CLASS) if plain else ())
    return message(Kind.NEW_EXPECTATION, REQUEST | ACKNOWLEDGE | CREATE, number, payload)


def shorten(expectation: Expectation, seconds: int) -> bytes:
    """Let one that exists end in so many seconds: a new one gets the whole time of its helper."""
    payload = expectation.pack(but=frozenset(Part) - _NEEDED - {Part.ZONE})
    payload += attribute(Part.TIMEOUT, _NUMBER.pack(seconds))
    return message(Kind.NEW_EXPECTATION, REQUEST, 0, payload)
