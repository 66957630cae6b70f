"""FTP over a loss of power, in every phase of it, through source NAT and destination NAT."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pytest

from appliance.node import ctnetlink, kernel, netlink
from appliance.node.config import EXPECTATIONS_PORT
from appliance.node.ctnetlink import Expectation, Part
from tests.node import ftp
from tests.node.ftp import LARGE, SMALL, Client, Mode
from tests.node.netns import GATEWAY, NETWORKS, Lab, Node, inside, wait_for
from tests.node.test_pair import active, await_copy, await_standby, standby


class Nat(StrEnum):
    """Which end is translated: the client that goes out, or the server that is reached inside."""

    SNAT = "SNAT"
    DNAT = "DNAT"


class Phase(StrEnum):
    """Where in the life of an FTP session the power goes."""

    IN_FLIGHT = "in flight"  # a file is on its way
    NEXT = "next"  # then the next command and file by the same control connection
    HELD = "held"  # the data connection is agreed upon, and comes after the takeover


MANY = 40

Case = tuple[Nat, Mode, Phase]
CASES = [(nat, mode, phase) for nat in Nat for mode in Mode for phase in Phase]
CLIENTS = {Nat.SNAT: ("client", "192.168.1.3"), Nat.DNAT: ("server", "192.168.1.100")}

# Where the helper changes the length of a line.
SHIFTED = {(Nat.SNAT, Mode.PORT), (Nat.SNAT, Mode.EPRT), (Nat.DNAT, Mode.PASV)}
# Where the data connection comes from outside, and only its expectation leads it in.
LED_IN = {*SHIFTED, (Nat.DNAT, Mode.EPSV)}


@dataclass
class Session:
    """Two control connections of one kind: one with a file on its way, one that waits."""

    flying: Client
    holding: Client

    def begin(self) -> None:
        for each in (self.flying, self.holding):
            each.login()
            each.transfer()
        self.flying.agree()
        self.flying.begin(LARGE)
        self.holding.agree()

    def end(self) -> dict[Phase, str]:
        """What went wrong in each phase; nothing, when all is well."""
        outcomes = {
            Phase.HELD: _fault(self.use),
            Phase.IN_FLIGHT: _fault(lambda: self.flying.receive(LARGE)),
            Phase.NEXT: _fault(self._go_on),
        }
        self.flying.close()
        self.holding.close()
        return outcomes

    def use(self) -> None:
        """What was agreed upon."""
        self.holding.begin(SMALL)
        self.holding.receive(SMALL)
        self.holding.finish()

    def _go_on(self) -> None:
        self.flying.finish()
        self.flying.transfer()


def _fault(step: Callable[[], None]) -> str:
    try:
        step()
    except (AssertionError, *ftp.ERRORS) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def boot(lab: Lab, **settings: object) -> None:
    """Both nodes anew, with these settings of the agents."""
    for node in lab.nodes.values():
        if node.programs:
            node.lose_power()
        path = node.folder / "etc/appliance/agent.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    lab.boot()
    wait_for("one active node", lambda: len(lab.active()) == 1)
    await_standby(standby(lab))


def power_loss(lab: Lab, before: Callable[[Node], None] = lambda _: None) -> dict[Case, str]:
    """All kinds of sessions at once, then power loss of the active node: what went wrong."""
    with ExitStack() as stack:
        stack.enter_context(ftp.server(lab.namespace("server"), "192.168.1.3"))
        stack.enter_context(ftp.server(lab.namespace("client"), "192.168.0.3"))
        sessions = {(nat, mode): _session(lab, nat, mode) for nat in Nat for mode in Mode}
        pool = stack.enter_context(ThreadPoolExecutor(len(sessions)))
        list(pool.map(Session.begin, sessions.values()))
        dead, heir = active(lab), standby(lab)
        await_copy(heir, 3 * len(sessions))
        before(heir)
        dead.lose_power()
        wait_for("takeover", lambda: heir.role() == "MASTER")
        ends = dict(zip(sessions, pool.map(Session.end, sessions.values()), strict=True))
    return {(*kind, phase): text for kind, found in ends.items() for phase, text in found.items()}


def _session(lab: Lab, nat: Nat, mode: Mode) -> Session:
    namespace, host = CLIENTS[nat]
    flying, holding = (Client(lab.namespace(namespace), host, mode) for _ in range(2))
    return Session(flying, holding)


def holds(count: int) -> Callable[[Node], None]:
    """Wait until a standby holds so many of its peer's expectations."""
    return lambda node: wait_for(
        f"{count} expectations", lambda: node.expectations()["held"] >= count
    )


@pytest.fixture(scope="module")
def cured(lab: Lab) -> dict[Case, str]:
    boot(lab, announce=True, hand_over=True)
    return power_loss(lab, holds(len(Nat) * len(Mode)))


@pytest.fixture(scope="module")
def silent(lab: Lab, cured: object) -> dict[Case, str]:
    """Shifted sequences are not announced."""
    boot(lab, announce=False, hand_over=True)
    return power_loss(lab, holds(len(Nat) * len(Mode)))


@pytest.fixture(scope="module")
def keeping(lab: Lab, silent: object) -> dict[Case, str]:
    """Expectations are not handed over."""
    boot(lab, announce=True, hand_over=False)
    return power_loss(lab)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_it_survives(cured: dict[Case, str], case: Case) -> None:
    assert cured[case] == ""


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_without_announcements_shifted_control_connections_die(
    silent: dict[Case, str], case: Case
) -> None:
    dies = case[:2] in SHIFTED and case[2] is not Phase.IN_FLIGHT
    assert bool(silent[case]) == dies, silent[case]


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_what_is_not_handed_over_is_not_led_in(keeping: dict[Case, str], case: Case) -> None:
    fails = case[:2] in LED_IN and case[2] is Phase.HELD
    assert bool(keeping[case]) == fails, keeping[case]


@pytest.fixture
def pair(lab: Lab) -> Lab:
    """Both nodes anew, with both cures."""
    boot(lab, announce=True, hand_over=True)
    return lab


@pytest.fixture
def waiting(lab: Lab, pair: object) -> Iterator[list[Client]]:
    """Control connections, on each of which a data connection is agreed upon."""
    with ftp.server(lab.namespace("server"), "192.168.1.3"):
        clients = [Client(lab.namespace("client"), "192.168.1.3", Mode.PORT) for _ in range(MANY)]
        for each in clients:
            each.login()
        yield clients
        for each in clients:
            each.close()


def use(client: Client) -> str:
    return _fault(lambda: Session(client, client).use())


def lose_some(node: Node, share: int) -> None:
    """This node does not hear so many percent of what is said about expectations."""
    port, which = EXPECTATIONS_PORT, f"numgen random mod 100 < {share}"
    node.run(
        "nft",
        "add table inet lossy; add chain inet lossy in { type filter hook input priority -300; };"
        f"add rule inet lossy in udp dport {port} {which} counter drop",
    )


def test_none_is_lost_with_the_datagrams(pair: Lab, waiting: list[Client]) -> None:
    dead, heir = active(pair), standby(pair)
    for node in (dead, heir):
        lose_some(node, 20)
    for each in waiting:
        each.agree()
    wait_for("the peer holds all", lambda: heir.expectations()["held"] == MANY)
    assert "packets 0 " not in heir.run("nft", "list", "table", "inet", "lossy")
    dead.lose_power()
    wait_for("takeover", lambda: heir.role() == "MASTER")
    assert {use(each) for each in waiting} == {""}
    assert heir.expectations()["takeover"]["created"] == MANY
    print("created in (ms):", heir.expectations()["takeover"]["ms"])


def test_they_go_with_a_planned_handover_and_back(pair: Lab, waiting: list[Client]) -> None:
    old, new = active(pair), standby(pair)
    for each in waiting:
        each.agree()
    for giver, taker in ((old, new), (new, old)):
        holds(1)(taker)
        assert giver.hand_over().returncode == 0
        wait_for("handed over", lambda taker=taker: taker.role() == "MASTER")
        await_standby(giver)
        assert use(waiting.pop()) == ""
    wait_for("the used ones are gone", lambda: new.expectations()["held"] == len(waiting))
    assert {use(each) for each in waiting} == {""}


def test_either_process_may_be_restarted(pair: Lab, waiting: list[Client]) -> None:
    dead, heir = active(pair), standby(pair)
    for each in waiting:
        each.agree()
    for node in (heir, dead):
        node.kill("expectations")
        node.path("expectations.json").unlink()
        node.start_expectations()
        holds(MANY)(heir)
    dead.lose_power()
    wait_for("takeover", lambda: heir.role() == "MASTER")
    assert {use(each) for each in waiting} == {""}


def test_a_process_restarted_on_a_node_that_has_given_up_takes_nothing_away(
    pair: Lab, waiting: list[Client]
) -> None:
    """Everything is killed, and is up again without the virtual addresses before the takeover."""
    dead, heir = active(pair), standby(pair)
    for each in waiting:
        each.agree()
    holds(MANY)(heir)
    pair.plug(heir.name, "inside outside", "down")
    for program in ("keepalived", "expectations"):
        dead.kill(program)
    for gateway, network in zip(GATEWAY.values(), ("inside", "outside"), strict=True):
        dead.run("ip", "address", "flush", "dev", NETWORKS[network], "to", gateway)
    dead.path("expectations.json").unlink()
    dead.start_expectations()
    wait_for("both met", lambda: dead.expectations()["peer"])
    assert not dead.expectations()["active"]
    pair.plug(heir.name, "inside outside", "up")
    wait_for("takeover", lambda: heir.expectations()["takeover"])
    assert heir.expectations()["takeover"]["created"] == MANY
    assert {use(each) for each in waiting} == {""}


def test_what_a_commit_makes_anew_keeps_its_expectations(pair: Lab, waiting: list[Client]) -> None:
    """A short absence from the role, with the peer's copy of connections that are here already."""
    old, new = active(pair), standby(pair)
    for each in waiting:
        each.agree()
    holds(MANY)(new)
    assert old.hand_over().returncode == 0
    wait_for("handed over", lambda: new.role() == "MASTER")
    holds(MANY)(old)
    old.kill("keepalived")
    new.run(*new.conntrackd("-n"))
    await_copy(new, MANY)
    first = new.expectations()["takeover"]["wall"]
    new.path("handover").write_text("1\n")
    wait_for("fault", lambda: new.role() == "FAULT")
    new.path("handover").write_text("0\n")
    wait_for("active again", lambda: new.expectations()["takeover"]["wall"] > first)
    assert new.expectations()["takeover"]["created"] == MANY
    assert {use(each) for each in waiting} == {""}


def test_one_control_connection_outlives_one_loss_of_power_after_another(pair: Lab) -> None:
    """Lines are rewritten on a connection that was itself taken over."""
    with ExitStack() as stack:
        stack.enter_context(ftp.server(pair.namespace("server"), "192.168.1.3"))
        stack.enter_context(ftp.server(pair.namespace("client"), "192.168.0.3"))
        sessions = [_session(pair, nat, mode) for nat, mode in sorted(SHIFTED)]
        for each in sessions:
            each.flying.login()
            each.flying.transfer()
        for _ in range(2):
            dead, heir = active(pair), standby(pair)
            await_copy(heir, len(sessions))
            dead.lose_power()
            wait_for("takeover", lambda heir=heir: heir.role() == "MASTER")
            for each in sessions:
                each.flying.transfer()
                each.flying.transfer()
            dead.boot()
            await_standby(dead)
        for each in sessions:
            each.flying.close()


def test_data_connections_have_no_helper(pair: Lab, waiting: list[Client]) -> None:
    dead, heir = active(pair), standby(pair)
    for each in waiting:
        each.agree()
    holds(MANY)(heir)
    dead.lose_power()
    wait_for("takeover", lambda: heir.role() == "MASTER")
    assert {use(each) for each in waiting} == {""}
    tracked = [line for line in heir.run("conntrack", "-L").splitlines() if "192.168.0.3" in line]
    assert [line for line in tracked if "dport=21 " not in line]
    assert not [line for line in tracked if "helper=" in line and "dport=21 " not in line]


def test_a_flood_costs_bounded_memory_and_ends_with_both_sides_equal(
    pair: Lab, waiting: list[Client]
) -> None:
    """One control connection may have one expectation: each new one ends the one before it."""
    node, peer = active(pair), standby(pair)
    waiting[0].agree()
    holds(1)(peer)
    with inside(node.namespace):
        ((expectation, _),) = kernel.expectations()
        link = netlink.connect(12)  # NETLINK_NETFILTER
    for each in waiting[1:]:
        each.agree()
    for rate, count in ((200, 400), (1000, 4000), (None, 20_000)):
        before, begin = _process_s(node), time.monotonic()
        _flood(link, expectation, count, rate)
        sent = time.monotonic() - begin
        wait_for("all is said", lambda: _settled(node, peer, MANY), 20)
        used = (_process_s(node) - before) / count * 1e6
        took, ways = count / sent, node.expectations()["acknowledged_ms"]
        print(f"{count} at {took:.0f}/s: {used:.0f} us of processor each, acknowledged {ways} ms")
    status = Path(f"/proc/{node.programs['expectations'].pid}/status").read_text()
    (resident,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    print(f"resident at most {int(resident) / 1024:.0f} MiB")
    assert int(resident) < 64 * 1024
    assert use(waiting[-1]) == ""


def _flood(link: socket.socket, first: Expectation, count: int, rate: int | None) -> None:
    begin = time.monotonic()
    for number in range(count):
        ports = (number % 60_000 + 1024).to_bytes(2, "big")
        link.send(ctnetlink.creation(_to_port(first, ports), 1))
        link.recv(1 << 16)
        while rate and time.monotonic() < begin + number / rate:
            time.sleep(0.0005)  # poll


def _to_port(first: Expectation, port: bytes) -> Expectation:
    """The same, for another port: of the tuple it is the last attribute but for padding."""
    parts = dict(first.parts)
    parts[Part.TUPLE] = _with_port(parts[Part.TUPLE], port)
    return Expectation(first.family, tuple(parts.items()))


def _with_port(tuple_: bytes, port: bytes) -> bytes:
    marker = b"\x06\x00\x03\x00"  # CTA_PROTO_DST_PORT, six bytes
    at = tuple_.index(marker) + len(marker)
    return tuple_[:at] + port + tuple_[at + 2 :]


def _settled(node: Node, peer: Node, count: int) -> bool:
    here, there = node.expectations(), peer.expectations()
    return (here["here"], here["unacknowledged"], there["held"]) == (count, 0, count)


def _process_s(node: Node) -> float:
    """Processor time of its expectations process."""
    text = Path(f"/proc/{node.programs['expectations'].pid}/stat").read_text()
    user, system = text.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
