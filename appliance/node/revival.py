"""Create what the peer's helpers awaited, on a node that has become active."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field

from appliance.node import ctnetlink
from appliance.node.ctnetlink import Expectation
from appliance.node.exchange import Name, Record

PATIENCE_S = 2.0  # for a master that is not there yet
_AGAIN_S = 0.01

Create = Callable[[list[tuple[Expectation, int]]], list[int]]


@dataclass(frozen=True, slots=True)
class Wish:
    """One expectation to create: the record it came with, and how long to try."""

    record: Name
    expectation: Expectation
    ends: float
    until: float


@dataclass(slots=True)
class Revival:
    """Tries at once and, while the master is missing, again each 10 ms."""

    create: Create
    created: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    _wishes: dict[Name, Wish] = field(default_factory=dict)
    _next: float = float("inf")

    def want(self, records: list[Record], now: float) -> None:
        """Have them created; nothing is done yet."""
        for each in records:
            expectation, _ = ctnetlink.unpack(each.content)
            self._wishes[each.name] = Wish(each.name, expectation, each.ends, now + PATIENCE_S)
            self._next = now

    def forget(self) -> None:
        """This node is not active any more."""
        self._wishes.clear()

    def next(self) -> float:
        """When `run` has something to do."""
        return self._next if self._wishes else float("inf")

    def run(self, held: dict[Name, Record], now: float) -> list[Wish]:
        """Try what is still held; those that are there now leave `held`, and are the result."""
        self._next = now + _AGAIN_S
        wishes = [each for n, each in self._wishes.items() if n in held and each.ends > now]
        answers = self.create([(each.expectation, _seconds(each.ends - now)) for each in wishes])
        self._wishes.clear()
        done = []
        for wish, error in zip(wishes, answers, strict=True):
            if error == errno.ENOENT and now < wish.until:
                self._wishes[wish.record] = wish
            elif error:
                self._fail(wish, error, held)
            else:
                done.append(wish)
                del held[wish.record]
        self.created += len(done)
        return done

    def _fail(self, wish: Wish, error: int, held: dict[Name, Record]) -> None:
        """Without its master it stays: a split brain may end, and bring the connection."""
        name = errno.errorcode.get(error, str(error))
        self.failures[name] = self.failures.get(name, 0) + 1
        if error != errno.ENOENT:
            del held[wish.record]


def _seconds(left: float) -> int:
    return max(1, round(left))
