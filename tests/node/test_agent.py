from __future__ import annotations

import json
import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import cast

import pytest

from appliance.node import agent as agent_module
from appliance.node import conntrackd as conntrackd_module
from appliance.node import kernel, statefile
from appliance.node.agent import Agent, World
from appliance.node.balancing import Balancing
from appliance.node.config import Address, Config, Link, parse
from appliance.node.conntrackd import Request
from appliance.node.driver import HEAL, REJOIN, TAKE_OVER
from appliance.node.identity import Identity
from appliance.node.notify import notify
from appliance.node.peer import Links, Word, decode, encode
from tests.node.fake import FakeConntrackd

VIRTUAL = ip_address("192.0.2.100")
IDENTITY = Identity("fw1", "testcase", "digest", "1")


@dataclass
class FakeLinks:
    """The sync network: what was said, and what the peer says next."""

    said: list[Word] = field(default_factory=list)
    coming: list[Word] = field(default_factory=list)
    run: int = 1
    link: int = 0  # by which the peer's words come
    sockets: tuple[socket.socket, ...] = ()

    def next_number(self) -> int:
        return len(self.said)

    def send(self, data: bytes) -> None:
        word = decode(data)
        assert word
        self.said.append(word)

    def receive(self) -> list[tuple[int, bytes]]:
        coming, self.coming = self.coming, []
        return [(self.link, encode(each)) for each in coming]


@dataclass
class Bench:
    """An agent with a clock that only the test moves."""

    folder: Path
    now: float = 1000.0
    here: set[Address] = field(default_factory=set)
    notified: list[str] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    links: FakeLinks = field(default_factory=FakeLinks)

    @property
    def config(self) -> Config:
        return Config(
            virtual=(VIRTUAL,),
            links=(Link("sync", ip_address("192.0.2.1"), ip_address("192.0.2.2")),),
            fifo=self.folder / "fifo",
            control=self.folder / "control",
            state=self.folder / "state.json",
            handover=self.folder / "handover",
            yields=self.folder / "yields",
            cards=("inside",),
            peers=(),
            advert_s=0.1,
        )

    def agent(self) -> Agent:
        links = cast(Links, self.links)
        agent = Agent(self.config, IDENTITY, links, self.world(), self.balancing())
        self.finish(agent)
        return agent

    def balancing(self) -> Balancing | None:
        return None

    def world(self) -> World:
        return World(
            monotonic=lambda: self.now,
            wall=lambda: 5.0,
            addresses=lambda: frozenset(self.here),
            carrier=lambda _: True,
            neighbours=dict,
            ask_neighbours=lambda *_: None,
            renew=lambda _: 0,
            kill=self.kill,
        )

    def kill(self, unit: str) -> bool:
        self.killed.append(unit)
        return True

    def finish(self, agent: Agent) -> None:
        """Until all that was asked of conntrackd is done, and what came of that as well."""
        while agent.tables.worker.busy:
            select.select([agent.tables.worker.fd], [], [])
            agent.step()

    def step(self, agent: Agent) -> None:
        agent.step()
        self.finish(agent)

    def say(self, *roles: str) -> None:
        lines = "".join(f'GROUP "appliance" {role} 0\n' for role in roles)
        with (self.folder / "fifo").open("a") as fifo:
            fifo.write(lines)

    def turn(self, agent: Agent, seconds: float = 1.0) -> None:
        """Let time pass, with the peer speaking each second."""
        self.now += seconds
        self.step(agent)

    def state(self) -> dict[str, object]:
        return statefile.read(self.folder / "state.json")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench(tmp_path)
    monkeypatch.setattr(agent_module, "notify", lambda *lines: bench.notified.extend(lines))
    (tmp_path / "handover").write_text("0\n")
    return bench


@pytest.fixture
def daemon(bench: Bench) -> Iterator[FakeConntrackd]:
    with FakeConntrackd(bench.config.control) as daemon:
        yield daemon


def test_commit_comes_first_and_the_state_tells_of_it(bench: Bench, daemon: FakeConntrackd) -> None:
    agent = bench.agent()
    bench.say("BACKUP", "MASTER")
    bench.step(agent)
    assert daemon.commands()[:4] == list(TAKE_OVER)
    assert daemon.asked[0] is Request.COMMIT
    state = bench.state()
    assert state["role"] == "MASTER"
    assert state["takeover"]["ms"] < 1000  # type: ignore[index]


def test_events_that_came_too_late_to_matter_are_skipped(
    bench: Bench, daemon: FakeConntrackd
) -> None:
    agent = bench.agent()
    bench.say("MASTER", "BACKUP", "MASTER", "FAULT", "BACKUP")
    bench.step(agent)
    assert Request.COMMIT not in daemon.asked
    assert bench.state()["role"] == "BACKUP"


def test_a_takeover_that_is_revoked_stops_after_the_request_in_hand(
    bench: Bench, daemon: FakeConntrackd
) -> None:
    agent = bench.agent()
    daemon.on = lambda request: bench.say("BACKUP") if request is Request.COMMIT else None
    bench.say("MASTER")
    bench.step(agent)
    assert daemon.commands() == [Request.COMMIT]
    assert bench.state()["role"] == "BACKUP"
    assert bench.state()["owed"] == []


def test_a_short_absence_takes_what_the_peer_accepted(bench: Bench, daemon: FakeConntrackd) -> None:
    agent = bench.agent()
    bench.say("MASTER")
    bench.step(agent)
    daemon.asked.clear()
    bench.say("BACKUP", "MASTER")
    bench.step(agent)
    assert daemon.commands() == list(HEAL)


def test_ready_is_said_once_and_not_before_the_gate(bench: Bench, daemon: FakeConntrackd) -> None:
    agent = bench.agent()
    for _ in range(25):
        bench.turn(agent, 0.1)
    assert "READY=1" not in bench.notified
    for _ in range(20):
        bench.turn(agent, 0.1)
    assert bench.notified.count("READY=1") == 1


def test_a_restarted_agent_on_the_active_node_is_ready_at_once(
    bench: Bench, daemon: FakeConntrackd
) -> None:
    bench.here.add(VIRTUAL)
    bench.agent()
    assert daemon.commands() == list(TAKE_OVER)
    assert "READY=1" in bench.notified


def test_a_restarted_agent_on_the_standby_knows_its_role(
    bench: Bench, daemon: FakeConntrackd
) -> None:
    """keepalived tells of changes: an agent without a role would be no one to leave the role to."""
    first = bench.agent()
    bench.say("MASTER", "BACKUP")
    bench.step(first)
    second = bench.agent()
    bench.step(second)
    assert bench.links.said[-1].role == bench.state()["role"] == "BACKUP"
    bench.say("FAULT")
    third = bench.agent()
    assert third.role == "BACKUP"
    bench.step(third)
    assert third.role == "FAULT", "what was said while nobody read waits in the FIFO"


def test_a_restarted_agent_without_the_addresses_is_not_active(
    bench: Bench, daemon: FakeConntrackd
) -> None:
    first = bench.agent()
    bench.say("MASTER")
    bench.step(first)
    assert bench.state()["role"] == "MASTER"
    daemon.asked.clear()
    assert bench.agent().role == "INIT"
    assert Request.COMMIT not in daemon.asked


def test_a_takeover_without_conntrackd_is_made_up_for(bench: Bench) -> None:
    agent = bench.agent()
    bench.say("MASTER")
    bench.step(agent)
    assert bench.state()["owed"] == [request.name for request in TAKE_OVER]
    assert "conntrackd" in agent.alarms
    with FakeConntrackd(bench.config.control) as daemon:
        bench.turn(agent)
    assert daemon.commands() == list(TAKE_OVER)
    assert agent.alarms == {}


def test_a_restarted_conntrackd_sends_all_again(bench: Bench, daemon: FakeConntrackd) -> None:
    agent = bench.agent()
    bench.say("MASTER")
    bench.step(agent)
    daemon.path.rename(daemon.path.with_name("old"))
    with FakeConntrackd(bench.config.control) as fresh:
        bench.turn(agent)
        assert fresh.commands() == list(REJOIN)
        bench.turn(agent)
        assert fresh.commands() == list(REJOIN)
        daemon.path.with_name("old").rename(daemon.path.with_name("spare"))
    daemon.path.with_name("spare").rename(daemon.path)


def test_a_standby_without_entries_asks_and_one_with_entries_does_not(
    bench: Bench, daemon: FakeConntrackd
) -> None:
    agent = bench.agent()
    bench.say("BACKUP")
    for _ in range(12):
        daemon.received += 1
        bench.turn(agent)
    empty = daemon.commands().count(Request.ASK)
    daemon.external = 7
    for _ in range(12):
        bench.turn(agent)
    assert empty >= 2
    assert daemon.commands().count(Request.ASK) == empty


def test_a_hung_conntrackd_costs_the_time_limit_and_no_more(
    bench: Bench, daemon: FakeConntrackd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conntrackd_module, "_LIMIT_S", 0.05)
    agent = bench.agent()
    daemon.hang = True
    bench.say("MASTER")
    bench.step(agent)
    assert bench.state()["role"] == "MASTER"
    assert agent.alarms["conntrackd"].startswith("conntrackd: no answer to")
    assert set(bench.killed) == {"conntrackd"}
    bench.turn(agent)
    assert "WATCHDOG=1" in bench.notified


def test_the_watchdog_hears_of_each_round_of_housekeeping_and_of_nothing_else(
    bench: Bench, daemon: FakeConntrackd, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = bench.agent()
    bench.step(agent)
    assert bench.notified.count("WATCHDOG=1") == 1
    bench.step(agent)
    assert bench.notified.count("WATCHDOG=1") == 1
    monkeypatch.setattr(agent, "guard", None)
    with pytest.raises(AttributeError):
        bench.turn(agent)
    assert bench.notified.count("WATCHDOG=1") == 1


def test_a_standby_forgets_only_when_the_peer_is_active_beyond_doubt(
    bench: Bench, daemon: FakeConntrackd, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = [1, 0]
    monkeypatch.setattr(kernel, "forget", lambda *_: rounds.pop(0))
    agent = bench.agent()

    def wait(*roles: str, external: int) -> int:
        daemon.asked.clear()
        daemon.external = external
        bench.say(*roles)
        for _ in range(30):
            daemon.received += 1
            bench.turn(agent)
        return daemon.asked.count(Request.FLUSH_INTERNAL)

    assert wait("MASTER", external=5) == 0
    assert wait("FAULT", external=5) == 0
    assert wait("BACKUP", external=0) == 0
    assert wait("BACKUP", external=5) == 2
    assert wait("BACKUP", external=5) == 0


def test_the_sync_link_that_fell_silent_is_an_alarm(bench: Bench, daemon: FakeConntrackd) -> None:
    agent = bench.agent()
    bench.say("MASTER")
    for _ in range(7):
        bench.turn(agent)
    assert "peer" in agent.alarms
    daemon.received += 1
    bench.turn(agent)
    assert "peer" not in agent.alarms


def test_a_handover_left_behind_is_ended(bench: Bench, daemon: FakeConntrackd) -> None:
    agent = bench.agent()
    bench.step(agent)
    bench.config.handover.write_text("1\n")
    for _ in range(9):
        bench.turn(agent)
    assert bench.config.handover.read_text() == "1\n"
    for _ in range(3):
        bench.turn(agent)
    assert bench.config.handover.read_text() == "0\n"


def test_a_reader_never_sees_a_part_of_the_state(tmp_path: Path) -> None:
    path, torn = tmp_path / "state.json", []
    statefile.write(path, {"n": 0})
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                statefile.read(path)
            except (json.JSONDecodeError, FileNotFoundError) as error:
                torn.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(500):
        statefile.write(path, {"n": number, "filling": "x" * (number * 37 % 9000)})
    done.set()
    reader.join()
    assert torn == []
    assert os.listdir(tmp_path) == ["state.json"]


def test_notify_reaches_the_manager_and_never_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    notify("READY=1", "STATUS=well")
    assert manager.recv(100) == b"READY=1\nSTATUS=well"
    for _ in range(2000):  # more than its queue holds
        notify("WATCHDOG=1")
    manager.close()
    with suppress(FileNotFoundError):
        (tmp_path / "notify").unlink()
    notify("WATCHDOG=1")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"virtual": []}', "missing keys ['advert_s', 'cards', 'links', 'peers']"),
        (
            '{"virtual": [], "links": [], "cards": [], "peers": [], "advert_s": 1, "gate": 1}',
            "unknown keys ['gate']",
        ),
        (
            '{"virtual": ["x"], "links": [], "cards": [], "peers": [], "advert_s": 1}',
            "'x' does not appear to be",
        ),
    ],
)
def test_a_wrong_configuration_says_what_is_wrong(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what.replace("[", r"\[").replace("]", r"\]")):
        parse(text)
