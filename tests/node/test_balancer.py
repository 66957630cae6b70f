"""The agent's part of load balancing, with a kernel and a clock of the test's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance.node.balancing import Balancing, Channel, RealServer, Service
from appliance.node.checks import Verdict
from appliance.node.events import Role
from appliance.node.handover import Handover, RefusedError
from appliance.node.ipvs import Daemon, Server, StoppedError, Sync, Table
from appliance.node.ipvs import Service as Balanced
from appliance.node.ipvs_replay import Replayed, Stop
from appliance.node.peer import Word
from appliance.node.world import World
from tests.node.fake import FakeConntrackd
from tests.node.test_agent import Bench

ONE, TWO = ip_address("10.0.30.31"), ip_address("10.0.30.32")


def site(folder: Path) -> Balancing:
    servers = tuple(RealServer((each,), 1, folder / f"web-{each}") for each in (ONE, TWO))
    web = Service("web", (ip_address("198.51.100.10"),), {4: 80}, servers, ())
    channel = Channel("sync0", ip_address("192.0.2.1"), ip_address("224.0.0.81"), 8848, 51)
    return Balancing((web,), (), channel)


def table(connections: int = 0, templates: int = 0, *, weights: tuple[int, ...] = (1, 1)) -> Table:
    """The first server has everything; a weight below 0 is a server that is not there."""
    counts = ((connections, 0, templates), (0, 0, 0))
    servers = (
        Server(address, weight, 0, *each, b"")
        for address, weight, each in zip((ONE, TWO), weights, counts, strict=True)
        if weight >= 0
    )
    service = Balanced(4, 80, "wlc", None, b"", tuple(servers))
    return Table((service,), tuple(Daemon(way, "sync0", 51) for way in Sync))


class Balanced4(Bench):
    """An agent that balances."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.kernel: Table | OSError = table()
        self.replays: list[Stop] = []
        self.outcome: Replayed | OSError = Replayed(7, 2, whole=True)
        self.hold = threading.Event()
        self.hold.set()
        self.started: list[Sync] = []
        self.refuses = False
        self.checked: dict[object, Verdict] = {}
        self.asked_checks = 0
        self.reads, self.slowness, self.cut_short = 0, 0.0, 0
        self.read_on: Callable[[], object] = lambda: None

    def balancing_agent(self, *roles: str):
        agent = self.agent()
        self.say(*roles)
        self.step(agent)
        return agent

    def world(self) -> World:
        kernel = {"ipvs": self.read, "start_sync": self.start_sync, "replay": self.replay}
        return replace(super().world(), **kernel, verdicts=self.verdicts)

    def balancing(self) -> Balancing:
        return site(self.folder)

    def read(self, stop: Callable[[], bool]) -> Table:
        self.reads += 1
        self.read_on()
        if stop():
            self.cut_short += 1
            raise StoppedError
        self.now += self.slowness
        if isinstance(self.kernel, OSError):
            raise self.kernel
        return self.kernel

    def start_sync(self, channel: Channel, way: Sync) -> None:
        if self.refuses:
            raise OSError("no address yet")
        assert isinstance(self.kernel, Table)
        self.started.append(way)
        daemon = Daemon(way, channel.interface, channel.sync_id)
        self.kernel = replace(self.kernel, daemons=(*self.kernel.daemons, daemon))

    def replay(self, _: Balancing, stop: Stop) -> Replayed:
        self.replays.append(stop)
        self.hold.wait(10)
        if isinstance(self.outcome, OSError):
            raise self.outcome
        return self.outcome

    def verdicts(self):
        self.asked_checks += 1
        return self.checked

    def hear(self, agent, word: Word, times: int = 1) -> None:
        """A second goes by, and the peer says this; what was begun is waited for."""
        for _ in range(times):
            self.numbered = getattr(self, "numbered", 0) + 1
            self.links.coming = [replace(word, number=self.numbered)]
            self.turn(agent)
            self.await_threads()

    def await_threads(self) -> None:
        if self.hold.is_set():
            for thread in threading.enumerate():
                if thread.name in ("replay", "checks"):
                    thread.join(10)


PEER = Word(
    run=77,
    number=1,
    rank="192.0.2.2",
    node="fw2",
    site="testcase",
    digest="digest",
    version="1",
    role=Role.BACKUP,
    role_s=9.0,
    connections=0,
    templates=0,
    takes=True,
)
ACTIVE = replace(PEER, role=Role.MASTER, connections=1000, templates=100, takes=False)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Balanced4]:
    monkeypatch.setattr("appliance.node.agent.notify", lambda *_: None)
    (tmp_path / "handover").write_text("0\n")
    bench = Balanced4(tmp_path)
    with FakeConntrackd(bench.config.control):
        yield bench
        bench.hold.set()
        bench.await_threads()


# The active node


def test_a_peer_that_appears_anew_is_told_of_everything_once(bench: Balanced4) -> None:
    agent = bench.balancing_agent("MASTER")
    bench.kernel = table(1000, 100)
    bench.hear(agent, replace(PEER, takes=False), 2)
    assert bench.state()["ipvs"]["in_step"] is False
    bench.hear(agent, PEER, 30)
    assert len(bench.replays) == 1
    assert bench.state()["ipvs"]["replayed"]["connections"] == 7
    assert bench.state()["ipvs"]["in_step"] is True
    bench.hear(agent, replace(PEER, run=78), 30)
    assert len(bench.replays) == 2


def test_a_handover_waits_until_the_peer_was_told(
    bench: Balanced4, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = bench.balancing_agent("MASTER")
    bench.kernel = table(1000, 100)
    handover = Handover(bench.config)
    monkeypatch.setattr(Handover, "_active", lambda _: True)
    monkeypatch.setattr(Handover, "_send_table", lambda *_: None)
    monkeypatch.setattr("appliance.node.handover._TABLE_S", 0.1)
    bench.hear(agent, replace(PEER, takes=False), 2)
    with pytest.raises(RefusedError, match="told of all of IPVS's connections"):
        handover.check()
    bench.hear(agent, PEER, 3)
    handover.check()


def test_the_peer_that_told_us_is_not_told_it_again(bench: Balanced4) -> None:
    """After a handover the other one has all that we have."""
    agent = bench.balancing_agent("BACKUP")
    bench.kernel = table(1000, 100)
    bench.hear(agent, ACTIVE, 3)
    bench.say("MASTER")
    bench.kernel = table(1000, 100)
    bench.hear(agent, PEER, 20)
    assert bench.replays == []
    assert bench.state()["ipvs"]["in_step"] is True


def test_a_peer_that_cannot_take_it_in_yet_is_told_when_it_can(bench: Balanced4) -> None:
    agent = bench.balancing_agent("MASTER")
    bench.hear(agent, replace(PEER, takes=False), 20)
    assert bench.replays == []
    bench.hear(agent, PEER)
    assert len(bench.replays) == 1


def test_a_peer_that_lacks_much_is_told_again_but_not_all_the_time(bench: Balanced4) -> None:
    agent = bench.balancing_agent("MASTER")
    bench.hear(agent, PEER, 12)
    bench.hear(agent, replace(PEER, lacks=True), 20)
    assert len(bench.replays) == 3


def test_a_peer_that_was_cut_off_or_active_as_well_has_missed_something(bench: Balanced4) -> None:
    agent = bench.balancing_agent("MASTER")
    bench.hear(agent, PEER, 12)
    for _ in range(3):
        bench.turn(agent)  # in silence
    bench.hear(agent, PEER, 12)
    assert len(bench.replays) == 2
    bench.hear(agent, replace(PEER, role=Role.MASTER), 3)
    assert len(bench.replays) == 2
    bench.hear(agent, PEER, 12)
    assert len(bench.replays) == 3


@pytest.mark.parametrize(("role_s", "replays"), [(1.0, 1), (9.0, 2)])
def test_a_standby_that_took_nothing_in_is_told_again(
    bench: Balanced4, role_s: float, replays: int
) -> None:
    """A fresh one has been told by our kernel before, and takes a moment to begin."""
    agent = bench.balancing_agent("MASTER")
    bench.hear(agent, PEER, 12)
    bench.hear(agent, replace(PEER, takes=False, role_s=role_s), 2)
    bench.hear(agent, PEER, 12)
    assert len(bench.replays) == replays


def test_a_peer_that_is_heard_on_another_card_alone_has_missed_something(bench: Balanced4) -> None:
    """IPVS tells by the first sync network only."""
    agent = bench.balancing_agent("MASTER")
    bench.hear(agent, PEER, 12)
    bench.links.link = 1
    bench.hear(agent, PEER, 12)
    assert len(bench.replays) == 1
    assert bench.state()["ipvs"]["in_step"] is None
    bench.links.link = 0
    bench.hear(agent, PEER, 12)
    assert len(bench.replays) == 2


def test_a_new_role_does_not_wait_for_a_reading(bench: Balanced4) -> None:
    agent = bench.balancing_agent("BACKUP")
    bench.hear(agent, ACTIVE, 3)
    read, bench.read_on = bench.reads, lambda: bench.say("MASTER")
    bench.turn(agent)
    assert bench.reads == read + 1
    assert bench.cut_short == 1


def test_a_peer_that_was_cut_off_meanwhile_is_told_again(bench: Balanced4) -> None:
    agent = bench.balancing_agent("MASTER")
    bench.hold.clear()
    bench.hear(agent, PEER, 2)
    bench.turn(agent)
    bench.turn(agent)  # in silence
    bench.hold.set()
    bench.await_threads()
    bench.hear(agent, PEER, 30)
    assert len(bench.replays) == 2


def test_nobody_tells_but_the_active_node(bench: Balanced4) -> None:
    """A standby that was the active node must not tell what it knew then."""
    agent = bench.balancing_agent("BACKUP")
    bench.hear(agent, replace(PEER, lacks=True), 20)
    bench.say("FAULT")
    bench.hear(agent, replace(PEER, lacks=True), 20)
    assert bench.replays == []


def test_the_loss_of_the_role_stops_it(bench: Balanced4) -> None:
    agent = bench.balancing_agent("MASTER")
    bench.hold.clear()
    bench.hear(agent, PEER)
    (stop,) = bench.replays
    assert stop(0.0) is False
    assert agent.balancer.words()["replays"] is True
    bench.say("BACKUP")
    assert stop(0.0) is True  # before the loop has looked
    bench.step(agent)
    assert stop(0.0) is True
    bench.outcome = Replayed(3, 0, whole=False)
    bench.hold.set()
    bench.await_threads()
    bench.kernel = table()
    bench.say("MASTER")
    bench.hear(agent, PEER, 12)
    assert len(bench.replays) == 2  # what was cut short is made up for


def test_what_the_kernel_refuses_is_tried_again(bench: Balanced4) -> None:
    agent = bench.balancing_agent("MASTER")
    bench.outcome = OSError("no such card")
    bench.hear(agent, PEER, 5)
    assert len(bench.replays) == 1
    bench.outcome = Replayed(7, 2, whole=True)
    bench.hear(agent, PEER, 30)
    assert len(bench.replays) == 2


# The standby


def test_what_is_missing_for_long_is_asked_for_and_then_an_alarm(bench: Balanced4) -> None:
    agent = bench.balancing_agent("BACKUP")
    bench.kernel = table(500, 100)
    bench.hear(agent, ACTIVE, 6)
    assert not bench.links.said[-1].lacks  # once may be chance
    bench.hear(agent, ACTIVE, 6)
    assert bench.links.said[-1].lacks
    assert agent.alarms == {} or "ipvs-balance" not in agent.alarms
    bench.hear(agent, ACTIVE, 35)
    assert "500 connections and 100 templates are here" in agent.alarms["ipvs-balance"]
    bench.kernel = table(990, 100)
    bench.hear(agent, ACTIVE, 6)
    assert "ipvs-balance" not in agent.alarms
    assert not bench.links.said[-1].lacks
    assert bench.state()["ipvs"]["difference"] == {"connections": -10, "templates": 0}


def test_templates_are_compared_as_well(bench: Balanced4) -> None:
    agent = bench.balancing_agent("BACKUP")
    bench.kernel = table(1000, 0)
    bench.hear(agent, ACTIVE, 12)
    assert bench.links.said[-1].lacks


def test_too_many_are_no_reason_to_do_anything(bench: Balanced4) -> None:
    agent = bench.balancing_agent("BACKUP")
    bench.kernel = table(5000, 100)
    bench.hear(agent, ACTIVE, 60)
    assert not any(word.lacks for word in bench.links.said)
    assert "ipvs-balance" not in agent.alarms
    assert bench.state()["ipvs"]["difference"]["connections"] == 4000


def test_while_the_peer_sends_nothing_is_compared(bench: Balanced4) -> None:
    agent = bench.balancing_agent("BACKUP")
    bench.kernel = table(5, 0)
    bench.hear(agent, replace(ACTIVE, replays=True), 60)
    assert not any(word.lacks for word in bench.links.said)


def test_it_takes_in_only_with_its_daemon_and_its_services(bench: Balanced4) -> None:
    agent = bench.balancing_agent("BACKUP")
    bench.hear(agent, ACTIVE)
    assert bench.links.said[-1].takes
    bench.refuses = True
    telling = Table(table().services, table().daemons[:1])
    for lacking in (telling, Table((), table().daemons), OSError("none")):
        bench.kernel = lacking
        bench.hear(agent, ACTIVE, 2)
        assert not bench.links.said[-1].takes


def test_a_table_that_takes_long_to_read_is_read_less_often(bench: Balanced4) -> None:
    agent = bench.balancing_agent("MASTER")
    bench.kernel = table(1, 0)
    bench.hear(agent, PEER, 10)
    quick, bench.reads, bench.slowness = bench.reads, 0, 0.5
    bench.hear(agent, PEER, 30)
    assert quick >= 8
    assert 1 <= bench.reads <= 4


def test_the_word_has_the_counts(bench: Balanced4) -> None:
    agent = bench.balancing_agent("MASTER")
    bench.kernel = table(12, 3)
    bench.hear(agent, PEER, 2)
    said = bench.links.said[-1]
    assert (said.connections, said.templates) == (12, 3)


# The sync daemon


def test_a_sync_daemon_that_does_not_run_is_an_alarm(bench: Balanced4) -> None:
    agent = bench.balancing_agent("BACKUP")
    bench.hear(agent, PEER, 2)
    bench.kernel, bench.refuses = Table(table().services, ()), True
    bench.hear(agent, PEER, 4)
    assert "ipvs" not in agent.alarms
    bench.hear(agent, PEER, 4)
    assert agent.alarms["ipvs"] == (
        "of the sync daemons master and backup does not run: no address yet"
    )
    bench.refuses = False
    bench.hear(agent, PEER, 2)
    assert "ipvs" not in agent.alarms


def test_both_sync_daemons_run_whatever_the_role(bench: Balanced4) -> None:
    """None is started or stopped at a takeover, when keepalived has no time to lose."""
    bench.kernel = Table(table().services, ())
    agent = bench.balancing_agent("INIT")
    bench.hear(agent, PEER, 2)
    assert bench.started == [Sync.MASTER, Sync.BACKUP]
    for role in ("BACKUP", "MASTER", "FAULT", "BACKUP"):
        bench.say(role)
        bench.hear(agent, PEER, 2)
    assert bench.started == [Sync.MASTER, Sync.BACKUP]
    bench.kernel = Table(table().services, (Daemon(Sync.MASTER, "sync0", 51),))
    bench.hear(agent, PEER, 2)
    assert bench.started[2:] == [Sync.BACKUP]


def test_a_kernel_that_does_not_answer_is_an_alarm(bench: Balanced4) -> None:
    agent = bench.balancing_agent("BACKUP")
    bench.kernel = OSError("the kernel has no IPVS")
    bench.hear(agent, ACTIVE, 8)
    assert agent.alarms["ipvs"] == "IPVS cannot be asked: the kernel has no IPVS"
    assert bench.links.said[-1].connections is None


# The servers


def servers(bench: Bench) -> dict[str, tuple[str, float, str | None]]:
    told = bench.state()["ipvs"]["servers"]  # type: ignore[index]
    return {each["address"]: (each["state"], each["since"], each["why"]) for each in told}


def test_a_server_that_goes_has_its_reason_from_the_journal(bench: Balanced4) -> None:
    agent = bench.balancing_agent("MASTER")
    bench.kernel = table()
    bench.hear(agent, PEER, 2)
    assert servers(bench) == {}, "only those are told of that are not up"
    assert bench.asked_checks == 0
    bench.kernel = table(weights=(1, -1))
    bench.checked = {(80, TWO): Verdict(up=False, since=4.0, why="TCP connection timeout.")}
    bench.hear(agent, PEER, 5)
    assert servers(bench)[str(TWO)] == ("down", 4.0, "TCP connection timeout.")
    assert bench.asked_checks == 1
    bench.checked = {}  # the journal was turned over
    bench.hear(agent, PEER, 60)
    assert servers(bench)[str(TWO)] == ("down", 4.0, "TCP connection timeout.")
    bench.kernel = table()
    bench.hear(agent, PEER, 2)
    assert servers(bench) == {}


def test_a_drained_server_is_no_failure_until_its_check_says_so(bench: Balanced4) -> None:
    agent = bench.balancing_agent("MASTER")
    (bench.folder / f"web-{TWO}").write_text("1\n")
    bench.kernel = table(weights=(1, 0))
    bench.hear(agent, PEER, 2)
    assert servers(bench)[str(TWO)][0] == "drained"
    bench.checked = {(80, TWO): Verdict(up=False, since=4.0, why="refused")}
    bench.hear(agent, PEER, 40)
    assert servers(bench)[str(TWO)] == ("down", 4.0, "refused")
