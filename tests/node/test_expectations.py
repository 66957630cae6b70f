"""What is handed over, and what comes of it when datagrams are lost; over recorded messages."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.node import ctnetlink
from appliance.node.announce import DELAYS_S, Announcements
from appliance.node.config import Config
from appliance.node.ctnetlink import Expectation, Kind, Part
from appliance.node.exchange import SILENT_S, Exchange, Inbox, Name, Outbox, Record, unpack
from appliance.node.exchange import Kind as Word
from appliance.node.expectations import MOST, Expectations
from appliance.node.netlink import HEADER, attributes, messages
from appliance.node.revival import PATIENCE_S, Revival

RECORDED = sorted(Path(__file__).with_name("recorded").glob("*.txt"))


def recorded(path: Path) -> list[tuple[str, bytes]]:
    lines = (line.split() for line in path.read_text().splitlines())
    return [(name, bytes.fromhex(text)) for name, text in lines]


def one(name: str = "snat-port") -> Expectation:
    (path,) = (each for each in RECORDED if each.stem == name)
    return ctnetlink.unpack(recorded(path)[0][1])[0]


def parts(message: bytes) -> dict[int, bytes]:
    ((_, payload),) = messages(message)
    return dict(attributes(payload[ctnetlink.GENERIC.size :]))


class TestMessages:
    def test_every_case_is_recorded(self) -> None:
        v4 = {f"{nat}-{mode}" for nat in ("snat", "dnat") for mode in ("port", "eprt")}
        v4 |= {f"{nat}-{mode}" for nat in ("snat", "dnat") for mode in ("pasv", "epsv")}
        assert {each.stem for each in RECORDED} == v4 | {"ipv6-epsv", "ipv6-eprt"}

    @pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
    def test_each_that_comes_goes_by_the_same_key(self, path: Path) -> None:
        events = [(name, ctnetlink.unpack(text)[0].key) for name, text in recorded(path)]
        assert [name for name, _ in events] == ["new", "gone"] * 2
        assert events[0][1] == events[1][1] != events[2][1] == events[3][1]

    @pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
    def test_all_is_read_and_written_again(self, path: Path) -> None:
        expectation, left = ctnetlink.unpack(recorded(path)[0][1])
        assert left == 300
        assert expectation.part(Part.HELPER) == b"ftp\0"
        translated = not path.stem.startswith("ipv6")
        assert (expectation.part(Part.FUNCTION) == b"nat-follow-master\0") == translated
        assert bool(expectation.part(Part.NAT)) == translated
        assert ctnetlink.unpack(expectation.pack())[0] == expectation

    def test_the_data_connection_gets_no_helper(self) -> None:
        made = parts(ctnetlink.creation(one(), 1))
        assert made.keys() == {
            *(Part.MASTER, Part.TUPLE, Part.MASK, Part.FLAGS, Part.NAT, Part.FUNCTION)
        }

    def test_another_class_needs_its_helper(self) -> None:
        kept = [each for each in one().parts if each[0] is not Part.CLASS]
        other = Expectation(2, (*kept, (Part.CLASS, b"\0\0\0\1")))
        assert {Part.CLASS, Part.HELPER} <= parts(ctnetlink.creation(other, 1)).keys()

    def test_a_touch_names_the_connection_and_nothing_else(self) -> None:
        expectation = one()
        touch = ctnetlink.touch(expectation.master)
        assert HEADER.unpack_from(touch)[1:3] == (Kind.NEW, ctnetlink.REQUEST)
        assert parts(touch) == {1: expectation.part(Part.MASTER)}

    @pytest.mark.parametrize("text", [b"", b"\2\0\0\0", bytes(2000)])
    def test_what_is_no_expectation_is_refused(self, text: bytes) -> None:
        with pytest.raises(ValueError, match="not an expectation"):
            ctnetlink.unpack(text)


def connection(protocol: int, left: int, state: int | None = None) -> dict[int, bytes]:
    """Attributes of one, as the kernel gives them."""
    number = ctnetlink.attribute(1, bytes([protocol]))
    found = {1: ctnetlink.attribute(2 | ctnetlink.NESTED, number), 7: left.to_bytes(4, "big")}
    if state is not None:
        inside = ctnetlink.attribute(1, bytes([state]))
        found[4] = ctnetlink.attribute(1 | ctnetlink.NESTED, inside)
    return found


class TestRenewal:
    @pytest.mark.parametrize(
        ("found", "whole"),
        [
            (connection(6, 300, state=3), ctnetlink.ESTABLISHED_S),
            (connection(17, 59), ctnetlink.STREAM_S),
        ],
        ids=["TCP", "UDP"],
    )
    def test_what_is_established_gets_its_whole_timeout(
        self, found: dict[int, bytes], whole: int
    ) -> None:
        message = ctnetlink.renewal(2, found)
        assert message
        assert HEADER.unpack_from(message)[1:3] == (Kind.NEW, ctnetlink.REQUEST)
        assert parts(message) == {1: found[1], 7: whole.to_bytes(4, "big")}

    @pytest.mark.parametrize(
        "found",
        [connection(6, 400_000, state=3), connection(6, 30, state=7), connection(17, 60)],
        ids=["has enough", "TIME_WAIT", "has half"],
    )
    def test_what_has_enough_or_soon_ends_is_left_alone(self, found: dict[int, bytes]) -> None:
        assert ctnetlink.renewal(2, found) is None

    def test_another_protocol_is_left_alone(self) -> None:
        assert ctnetlink.renewal(2, connection(132, 10, state=3)) is None


class TestAnnouncements:
    def test_soon_and_twice_again(self) -> None:
        queue = Announcements(10)
        queue.add(one().master, 5.0)
        times = []
        while (now := queue.next()) < float("inf"):
            assert queue.due(now) == [one().master]
            times.append(now - 5.0)
        assert times == pytest.approx(DELAYS_S)

    def test_one_touch_serves_several_lines(self) -> None:
        queue = Announcements(10)
        queue.add(one().master, 0.0)
        queue.add(one().master, 0.0)
        assert queue.due(1.0) == [one().master]

    def test_a_flood_is_made_up_for_later(self) -> None:
        queue = Announcements(3)
        queue.add(one().master, 0.0)
        assert not queue.overflowed
        queue.add(one("snat-eprt").master, 0.0)
        assert queue.overflowed
        assert queue.due(1.0) == [one().master]


def side(now: float = 0.0, limit: int = 100) -> Exchange:
    return Exchange(Outbox(limit), Inbox(limit), now)


@dataclass
class Pipe:
    """Two sides, a clock, and a way between them that loses what it is told to."""

    here: Exchange = field(default_factory=side)
    there: Exchange = field(default_factory=side)
    now: float = 0.0

    def run(self, seconds: float, loss: Callable[[], bool] = lambda: False) -> None:
        """Let time pass; `loss` tells of each datagram whether it is lost."""
        end = self.now + seconds
        while self.now < end:
            for sender, receiver in ((self.here, self.there), (self.there, self.here)):
                ways = [(receiver, sender, each) for each in sender.send(self.now)]
                while ways:
                    to, back, data = ways.pop(0)
                    if not loss():
                        ways += [(back, to, each) for each in to.receive(data, self.now)[1]]
            due = min(self.here.next(self.now), self.there.next(self.now))
            self.now = min(max(due, self.now + 0.001), end)

    def add(self, key: bytes, life: float = 1000.0) -> None:
        self.here.outbox.here(key, key, self.now + life, self.now)

    def held(self) -> set[bytes]:
        return {each.content for each in self.there.inbox.held.values()}


KEYS = st.sampled_from([b"a", b"b", b"c", b"d"])
STEPS = st.one_of(
    st.tuples(st.just("here"), KEYS),
    st.tuples(st.just("gone"), KEYS),
    st.tuples(st.just("wait"), st.just(b"")),
    st.tuples(st.just("peer restarts"), st.just(b"")),
    st.tuples(st.just("begin anew"), st.just(b"")),
)


class TestExchange:
    @settings(deadline=None)
    @given(st.lists(STEPS, max_size=20), st.floats(0, 0.8), st.integers())
    def test_whatever_is_lost_both_sides_end_equal(
        self, steps: list[tuple[str, bytes]], share: float, seed: int
    ) -> None:
        chance, pipe, alive = Random(seed), Pipe(), set()
        pipe.here.outbox.say(Word.WHOLE, pipe.now)

        def lost() -> bool:
            return chance.random() < share

        for step, key in steps:
            if step == "here":
                pipe.add(key)
                alive.add(key)
            elif step == "gone":
                pipe.here.outbox.gone(key, pipe.now)
                alive.discard(key)
            elif step == "peer restarts":
                pipe.there = side(pipe.now)
            elif step == "begin anew":
                pipe.here.outbox.renew(pipe.now)
            else:
                pipe.run(0.03, lost)
        pipe.run(600, lost)
        assert pipe.held() == alive
        assert pipe.here.outbox.waiting == 0

    @given(st.permutations([0, 1, 2, 3]), st.permutations([0, 1, 2, 3]))
    def test_late_and_doubled_datagrams_change_nothing(
        self, order: list[int], again: list[int]
    ) -> None:
        pipe, sent = Pipe(), []
        for key in (b"a", b"b"):
            pipe.add(key)
            sent += pipe.here.send(pipe.now)
            pipe.here.outbox.gone(key, pipe.now)
            sent += pipe.here.send(pipe.now)
        for number in (*order, *again):
            pipe.there.receive(sent[number], pipe.now)
        assert pipe.held() == set()

    def test_the_first_attempt_is_at_once_and_the_next_ones_ever_later(self) -> None:
        pipe, times = Pipe(), []
        pipe.add(b"a")
        while pipe.now < SILENT_S:
            if any(unpack(each, pipe.now).records for each in pipe.here.send(pipe.now)):
                times.append(round(pipe.now, 2))
            pipe.now += 0.001
        assert times[:5] == [0.0, 0.02, 0.06, 0.14, 0.3]
        assert len(times) < 10

    def test_a_silent_peer_is_greeted_and_told_all_when_it_is_back(self) -> None:
        pipe = Pipe()
        pipe.run(1)
        pipe.now += SILENT_S + 1
        pipe.add(b"a")
        (greeting,) = pipe.here.send(pipe.now)
        assert not unpack(greeting, pipe.now).records
        pipe.there.heard = pipe.now
        pipe.run(1.1)
        assert pipe.held() == {b"a"}

    def test_what_ends_is_held_no_longer(self) -> None:
        pipe = Pipe()
        pipe.add(b"a", life=2.0)
        pipe.run(1)
        assert pipe.held() == {b"a"}
        pipe.there.inbox.expire(2.5)
        assert pipe.held() == set()

    def test_what_the_peer_has_taken_it_hears_no_more(self) -> None:
        pipe = Pipe()
        pipe.add(b"old")
        pipe.run(1)
        pipe.here.outbox.surrender()
        pipe.add(b"late")
        pipe.there = side(pipe.now)
        pipe.run(2)
        assert pipe.held() == {b"late"}

    def test_a_restarted_process_that_knows_less_takes_nothing_away(self) -> None:
        pipe = Pipe()
        pipe.add(b"known to both")
        pipe.add(b"told by the first alone")
        pipe.run(1)
        pipe.here = side(pipe.now)
        pipe.add(b"known to both")
        pipe.run(2)
        assert pipe.held() == {b"known to both", b"told by the first alone"}
        pipe.here.outbox.say(Word.WHOLE, pipe.now)
        pipe.run(2)
        assert pipe.held() == {b"known to both"}

    def test_who_is_active_says_so_again_to_a_restarted_peer(self) -> None:
        outbox = Outbox(10)
        outbox.say(Word.TAKEN, 0.0)
        outbox.acknowledge([1], 0.0)
        outbox.renew(0.0)
        assert [each.kind for each in outbox.due(0.0)] == [Word.TAKEN]

    def test_a_deaf_peer_costs_bounded_memory_and_gets_what_lives(self) -> None:
        pipe = Pipe(here=side(limit=10))
        for number in range(1000):
            pipe.add(b"a")
            pipe.now += 0.001
            pipe.here.send(pipe.now)
            assert pipe.here.outbox.waiting <= 22, number
        pipe.run(1)
        assert pipe.held() == {b"a"}

    def test_more_than_it_can_hold_is_refused_and_counted(self) -> None:
        pipe = Pipe(there=side(limit=2))
        for key in (b"a", b"b", b"c"):
            pipe.add(key)
        pipe.run(1)
        assert pipe.held() == {b"a", b"b"}
        assert pipe.there.inbox.refused == 1

    def test_another_version_and_broken_datagrams_are_no_datagrams(self) -> None:
        pipe = Pipe()
        pipe.add(b"a")
        (whole,) = pipe.here.send(0.0)
        for broken in (b"APX0" + whole[4:], whole[:-1], whole[:20], b"", whole + b"x"):
            with pytest.raises(ValueError, match=r"cut off|version"):
                pipe.there.receive(broken, 0.0)
        assert pipe.held() == set()


@dataclass
class Kernel:
    """Answers as told, and keeps what was asked."""

    answers: list[int]
    asked: list[int] = field(default_factory=list)

    def create(self, wanted: list[tuple[Expectation, int]]) -> list[int]:
        self.asked += [seconds for _, seconds in wanted]
        return [self.answers.pop(0) for _ in wanted]


def held(*numbers: int, ends: float = 100.0) -> dict[Name, Record]:
    records = (Record(number, Word.HERE, one().pack(), ends) for number in numbers)
    return {record.name: record for record in records}


class TestRevival:
    def test_all_at_once_with_the_life_that_is_left(self) -> None:
        kernel, table = Kernel([0, 0]), held(1, 2)
        revival = Revival(kernel.create)
        revival.want(list(table.values()), 40.0)
        assert [wish.record for wish in revival.run(table, 40.0)] == [(0, 1), (0, 2)]
        assert kernel.asked == [60, 60]
        assert (revival.created, table, revival.next()) == (2, {}, float("inf"))

    def test_a_master_that_comes_late_is_waited_for(self) -> None:
        table = held(1)
        revival = Revival(Kernel([errno.ENOENT, errno.ENOENT, 0]).create)
        revival.want(list(table.values()), 0.0)
        turns = 0
        while (now := revival.next()) < float("inf"):
            revival.run(table, now)
            turns += 1
        assert (turns, revival.created, revival.failures) == (3, 1, {})

    def test_without_its_master_it_stays_held(self) -> None:
        table = held(1)
        revival = Revival(Kernel([errno.ENOENT]).create)
        revival.want(list(table.values()), 0.0)
        assert revival.run(table, PATIENCE_S) == []
        assert (list(table), revival.failures) == ([(0, 1)], {"ENOENT": 1})

    def test_what_the_kernel_refuses_is_dropped(self) -> None:
        table = held(1)
        revival = Revival(Kernel([errno.EINVAL]).create)
        revival.want(list(table.values()), 0.0)
        assert revival.run(table, 0.0) == []
        assert (table, revival.failures) == ({}, {"EINVAL": 1})

    def test_what_was_withdrawn_meanwhile_is_not_created(self) -> None:
        kernel = Kernel([])
        revival = Revival(kernel.create)
        revival.want(list(held(1).values()), 0.0)
        assert revival.run({}, 0.0) == []


def expectations(answers: list[int], *, active: bool) -> Expectations:
    config = Config(virtual=(), links=(), cards=(), peers=(), advert_s=0.1)
    return Expectations(config, active, side(), list, Revival(Kernel(answers).create))


class TestExpectations:
    def test_what_comes_late_is_created_at_once_on_the_active_node(self) -> None:
        heir = expectations([0], active=True)
        heir.exchange.inbox.held = table = held(1)
        heir.heard(list(table.values()), 0.0)
        heir.revive(0.0)
        assert (heir.revival.created, list(heir.here)) == (1, [one().key])

    def test_a_standby_only_holds(self) -> None:
        standby = expectations([], active=False)
        standby.heard(list(held(1).values()), 0.0)
        assert standby.revival.next() == float("inf")

    def test_what_ended_by_the_commit_itself_is_created_anew(self) -> None:
        node = expectations([0], active=False)
        node.appeared(one(), 60, 0.0)
        node.gone(one().key, 1.0)
        node.committed(1.1)
        assert (node.revival.created, node.here) == (1, {one().key: 60.0})

    def test_what_the_peer_holds_is_created_after_it_and_so_stays(self) -> None:
        kernel, node = Kernel([0, 0]), expectations([], active=False)
        node.revival = Revival(kernel.create)
        node.appeared(one(), 60, 0.0)
        node.gone(one().key, 1.0)
        node.exchange.inbox.held = held(1, ends=100.0)
        node.committed(1.0)
        assert kernel.asked == [59, 99]

    def test_what_ended_long_before_is_not(self) -> None:
        node = expectations([], active=False)
        node.appeared(one(), 60, 0.0)
        node.gone(one().key, 1.0)
        node.tidy(10.0)
        node.committed(10.0)
        assert node.here == {}

    def test_the_kernels_echo_of_our_own_keeps_its_end(self) -> None:
        heir = expectations([0], active=False)
        heir.exchange.inbox.held = held(1, ends=60.0)
        heir.committed(0.0)
        heir.appeared(one(), 300, 0.1)
        assert heir.here == {one().key: 60.0}

    def test_who_hears_that_the_peer_is_active_is_not(self) -> None:
        loser = expectations([], active=True)
        loser.appeared(one(), 300, 0.0)
        assert loser.exchange.outbox.live == 1
        loser.exchange.outbox.acknowledge([1], 0.0)
        loser.heard([Record(1, Word.TAKEN)], 1.0)
        assert (loser.active, loser.exchange.outbox.live) == (False, 0)

    def test_who_has_no_virtual_address_is_not_active(self) -> None:
        loser = expectations([], active=True)
        loser.tidy(0.0)
        assert not loser.active

    def test_a_flood_raises_an_alarm_and_stops_there(self) -> None:
        flooded = expectations([], active=True)
        for number in range(MOST + 10):
            zone = (Part.ZONE, number.to_bytes(2, "big"))
            flooded.know(Expectation(2, (*one().parts, zone)), 300.0, 0.0)
        assert len(flooded.here) == MOST
        assert "many" in flooded.alarms
