"""Records for the peer, in datagrams that may be lost, doubled or late. No sockets, no clock.

Each side has an outbox and an inbox. The outbox numbers its records and sends each again, at
growing intervals, until the peer has acknowledged it. The inbox takes each once. Both ends agree
when nothing is unacknowledged, whatever was lost on the way. A side that starts anew draws new
identities for its inbox and its outbox ("stream"): a fresh inbox is given everything again, and a
fresh stream replaces what came by the one before it as soon as it is said to be whole. A process
that starts anew may know less than the one before it told.
"""

from __future__ import annotations

import secrets
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum

# Magic and version; inbox and stream of the sender; stream that is acknowledged; the lowest number
# that is not settled yet; how many acknowledgements follow, and after them come records.
_HEADER = struct.Struct("!4sQQQQH")
_MAGIC = b"APX1"
_NUMBER = struct.Struct("!Q")
_RECORD = struct.Struct("!QBH")  # number, kind, length of the content
_LIFE = struct.Struct("!I")

FIRST_S, LONGEST_S = 0.02, 1.0  # between two attempts
HELLO_S = 1.0
SILENT_S = 3.0  # a peer that is not heard for so long is only greeted
LARGEST = 1200  # bytes of a datagram: the smallest MTU of IPv6 less its headers

Name = tuple[int, int]  # of a record: its stream, and its number there


class Kind(IntEnum):
    """What a record says."""

    HERE = 1  # an expectation lives: seconds left, and the expectation
    GONE = 2  # it does no longer: the number of the record that said so
    TAKEN = 3  # this side is active now; what it was told before is its own
    WHOLE = 4  # this stream has told all that lives; what came by another one is void


@dataclass(frozen=True, slots=True)
class Record:
    """One numbered message. In `content` is the number or the expectation; `ends` is its end."""

    number: int
    kind: Kind
    content: bytes = b""
    ends: float = 0.0
    stream: int = 0

    @property
    def name(self) -> Name:
        """Tells it from all others of the peer."""
        return self.stream, self.number


@dataclass(frozen=True, slots=True)
class Datagram:
    """A datagram as read."""

    inbox: int
    stream: int
    acknowledged_stream: int
    floor: int
    acknowledged: tuple[int, ...]
    records: tuple[Record, ...]


@dataclass(slots=True)
class _Attempt:
    record: Record
    since: float
    next: float
    interval: float = FIRST_S


@dataclass(slots=True)
class Outbox:
    """What the peer has to know. Keys are the caller's, who has no more than `limit` alive. In
    `times` is how long the last ones were on their way until they were acknowledged.

    Times are seconds of the caller's clock.
    """

    limit: int
    stream: int = field(default_factory=lambda: secrets.randbits(64) | 1)
    times: deque[float] = field(default_factory=lambda: deque(maxlen=512))
    said: set[Kind] = field(default_factory=set)  # of TAKEN and WHOLE, what holds
    _count: int = 0
    _live: dict[bytes, Record] = field(default_factory=dict)
    _waiting: dict[int, _Attempt] = field(default_factory=dict)

    def here(self, key: bytes, content: bytes, ends: float, now: float) -> None:
        """A new one, or one again that was gone."""
        self.gone(key, now)
        self._live[key] = self._add(Kind.HERE, content, ends, now)

    def gone(self, key: bytes, now: float) -> Record | None:
        """It is void; if it never was here, nothing is to be said. What was said of it."""
        record = self._live.pop(key, None)
        if record:
            self._waiting.pop(record.number, None)
            self._add(Kind.GONE, _NUMBER.pack(record.number), record.ends, now)
        return record

    def say(self, kind: Kind, now: float) -> None:
        """Say TAKEN or WHOLE; when all begins anew it is said again."""
        self.said.add(kind)
        self._add(kind, b"", float("inf"), now)

    def surrender(self) -> None:
        """The peer is active and has taken what it knows: it hears no more of that."""
        waiting = self._waiting
        self._live = {k: each for k, each in self._live.items() if each.number in waiting}

    def renew(self, now: float) -> None:
        """Begin anew with all that lives: the peer knows nothing, or too much waits to be said."""
        live, self._live, self._waiting = self._live, {}, {}
        self.stream = secrets.randbits(64) | 1
        for key, record in live.items():
            if record.ends > now:
                self.here(key, record.content, record.ends, now)
        for kind in self.said:
            self.say(kind, now)

    def _add(self, kind: Kind, content: bytes, ends: float, now: float) -> Record:
        self._count += 1
        record = Record(self._count, kind, content, ends, self.stream)
        self._waiting[record.number] = _Attempt(record, now, now)
        return record

    @property
    def live(self) -> int:
        """How many the peer should hold."""
        return len(self._live)

    @property
    def waiting(self) -> int:
        """Records that are not acknowledged."""
        return len(self._waiting)

    @property
    def floor(self) -> int:
        """Every record with a lower number is settled."""
        return next(iter(self._waiting), self._count + 1)

    def acknowledge(self, numbers: Iterable[int], now: float) -> None:
        """The peer has them."""
        for number in numbers:
            attempt = self._waiting.pop(number, None)
            if attempt:
                self.times.append(now - attempt.since)

    def due(self, now: float) -> list[Record]:
        """What is to be sent now, for the first time or again."""
        if len(self._waiting) > 2 * self.limit:
            self.renew(now)
        for number in [n for n, each in self._waiting.items() if each.record.ends <= now]:
            del self._waiting[number]  # the other side sees it end by itself
        attempts = [each for each in self._waiting.values() if each.next <= now]
        for each in attempts:
            each.next, each.interval = now + each.interval, min(2 * each.interval, LONGEST_S)
        return [each.record for each in attempts]

    def next(self) -> float:
        """When something is due."""
        return min((each.next for each in self._waiting.values()), default=float("inf"))

    def hasten(self, now: float) -> None:
        """The peer is back: try everything at once."""
        for each in self._waiting.values():
            each.next, each.interval = now, FIRST_S


@dataclass(slots=True)
class Inbox:
    """What the peer says that lives with it: contents and their ends."""

    limit: int
    identity: int = field(default_factory=lambda: secrets.randbits(64) | 1)
    held: dict[Name, Record] = field(default_factory=dict)
    stream: int = 0
    refused: int = 0
    _floor: int = 0
    _whole: float = float("inf")  # the number of the record that said so
    _taken: set[int] = field(default_factory=set)  # numbers from the floor on, each once
    _past: deque[int] = field(default_factory=lambda: deque(maxlen=16))

    def receive(self, datagram: Datagram) -> list[Record] | None:
        """What is new in it; all of it is to be acknowledged. None: of a stream that is over."""
        if datagram.stream in self._past:
            return None
        if datagram.stream != self.stream:
            self._past.append(self.stream)
            self.stream, self._floor, self._whole = datagram.stream, 0, float("inf")
            self._taken.clear()
        if datagram.floor > self._floor:
            self._floor = datagram.floor
            self._taken = {each for each in self._taken if each >= self._floor}
        if self._floor > self._whole:
            self.held = {n: each for n, each in self.held.items() if each.stream == self.stream}
            self._whole = float("inf")
        return [each for each in datagram.records if self._take(each)]

    def _take(self, record: Record) -> bool:
        if record.number < self._floor or record.number in self._taken:
            return False
        self._taken.add(record.number)
        if record.kind is Kind.GONE:
            target = _NUMBER.unpack(record.content)[0]
            self.held.pop((record.stream, target), None)
            self._taken.add(target)  # should it come late
        elif record.kind is Kind.HERE:
            if len(self.held) >= self.limit:
                self.refused += 1
                return False
            self.held[record.name] = record
        elif record.kind is Kind.WHOLE:
            self._whole = record.number
        return True

    def expire(self, now: float) -> None:
        """Drop what has come to its end."""
        for name in [n for n, each in self.held.items() if each.ends <= now]:
            del self.held[name]


@dataclass(slots=True)
class Exchange:
    """Both directions with one peer; `heard` is when it was heard last."""

    outbox: Outbox
    inbox: Inbox
    heard: float
    _peer: int = 0  # its inbox
    _next_hello: float = 0.0

    def receive(self, data: bytes, now: float) -> tuple[list[Record], list[bytes]]:
        """What is new in a datagram, and what to answer; ValueError if it is none of ours."""
        datagram = unpack(data, now)
        new = self.inbox.receive(datagram)
        if new is None:
            return [], []
        self._meet(datagram, now)
        numbers = [each.number for each in datagram.records]
        return new, list(self._pack(numbers, (), now)) if numbers else []

    def _meet(self, datagram: Datagram, now: float) -> None:
        if self._peer and datagram.inbox != self._peer:
            self.outbox.renew(now)
        elif now - self.heard > SILENT_S:
            self.outbox.hasten(now)
        self._peer, self.heard = datagram.inbox, now
        if datagram.acknowledged_stream == self.outbox.stream:
            self.outbox.acknowledge(datagram.acknowledged, now)

    def send(self, now: float) -> list[bytes]:
        """The datagrams that are due."""
        records = [] if self.silent(now) else self.outbox.due(now)
        if not records and now < self._next_hello:
            return []
        self._next_hello = now + HELLO_S
        return list(self._pack((), records, now))

    def silent(self, now: float) -> bool:
        """Whether the peer is not there."""
        return now - self.heard > SILENT_S

    def next(self, now: float) -> float:
        """When `send` has something to send."""
        due = float("inf") if self.silent(now) else self.outbox.next()
        return min(due, self._next_hello)

    def _pack(
        self, acknowledged: Iterable[int], records: Iterable[Record], now: float
    ) -> Iterator[bytes]:
        """One datagram or more: the first bears the acknowledgements."""
        datagram = self._head(*acknowledged)
        for record in records:
            text = _pack_record(record, now)
            if len(datagram) + len(text) > LARGEST:
                yield datagram
                datagram = self._head()
            datagram += text
        yield datagram

    def _head(self, *known: int) -> bytes:
        ids = (self.inbox.identity, self.outbox.stream, self.inbox.stream, self.outbox.floor)
        return _HEADER.pack(_MAGIC, *ids, len(known)) + b"".join(map(_NUMBER.pack, known))


def _pack_record(record: Record, now: float) -> bytes:
    content = record.content
    if record.kind is Kind.HERE:
        content = _LIFE.pack(max(0, int((record.ends - now) * 1000))) + content
    return _RECORD.pack(record.number, record.kind, len(content)) + content


def unpack(data: bytes, now: float) -> Datagram:
    """Read a datagram; ValueError if it is none, or of another version."""
    try:
        magic, inbox, stream, acknowledged, floor, known = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise ValueError("another version")
        end = _HEADER.size + known * _NUMBER.size
        numbers = tuple(each for (each,) in _NUMBER.iter_unpack(data[_HEADER.size : end]))
        if len(numbers) != known:
            raise ValueError("cut off")
        records = tuple(_records(data[end:], stream, now))
        return Datagram(inbox, stream, acknowledged, floor, numbers, records)
    except struct.error as error:
        raise ValueError(f"cut off: {error}") from error


def _records(data: bytes, stream: int, now: float) -> Iterator[Record]:
    while data:
        number, kind, length = _RECORD.unpack_from(data)
        content, data = data[_RECORD.size : _RECORD.size + length], data[_RECORD.size + length :]
        if len(content) != length or (kind == Kind.GONE and length != _NUMBER.size):
            raise ValueError("cut off")
        ends = float("inf")
        if kind == Kind.HERE:
            ends = now + _LIFE.unpack_from(content)[0] / 1000
            content = content[_LIFE.size :]
        yield Record(number, Kind(kind), content, ends, stream)
