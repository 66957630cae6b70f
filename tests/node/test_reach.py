"""Neighbours that answer and neighbours that do not, as values and with this machine's kernel."""

from __future__ import annotations

import signal
import subprocess
from ipaddress import ip_address
from pathlib import Path

from appliance.node import guard, reach
from appliance.node.guard import Guard
from appliance.node.reach import DEAF_ROUNDS, FEW, Neighbour, Reach
from tests.node.netns import Lab, inside, wait_for

PEER, HOST, OTHER = map(ip_address, ("192.0.2.2", "192.0.2.3", "192.0.2.4"))
REACHABLE, STALE, FAILED = Neighbour(0x02), Neighbour(0x04), Neighbour(0x20)


def test_who_was_heard_is_asked_and_the_peer_is_not() -> None:
    watch = Reach(("inside", "outside"), frozenset([PEER]))
    asked = watch.round({"inside": {HOST: STALE, PEER: REACHABLE, OTHER: FAILED}}, {})
    assert asked == {"inside": [HOST], "outside": []}


def test_the_peer_is_known_by_its_card_as_well() -> None:
    watch = Reach(("inside",), frozenset([PEER]))
    link_local = ip_address("fe80::2")
    table = {PEER: Neighbour(0x04, b"peer"), link_local: Neighbour(0x02, b"peer")}
    assert watch.round({"inside": {**table, HOST: Neighbour(0x04, b"host")}}, {}) == {
        "inside": [HOST]
    }


def test_what_the_peer_knows_is_asked_too() -> None:
    watch = Reach(("inside",), frozenset([PEER]))
    assert watch.round({}, {"inside": [str(HOST), str(PEER)]}) == {"inside": [HOST]}


def test_a_card_is_dead_after_three_rounds_without_any_answer_and_alive_after_one() -> None:
    watch = Reach(("inside",), frozenset())
    watch.round({"inside": {HOST: STALE, OTHER: STALE}}, {})
    for _ in range(DEAF_ROUNDS):
        assert watch.dead == ()
        watch.round({"inside": {HOST: FAILED, OTHER: STALE}}, {})
    assert watch.dead == ("inside",)
    watch.round({"inside": {HOST: FAILED, OTHER: REACHABLE}}, {})
    assert watch.dead == ()
    assert watch.told() == {"inside": [str(OTHER)]}


def test_a_card_without_known_neighbours_is_never_dead() -> None:
    watch = Reach(("inside",), frozenset())
    for _ in range(10):
        watch.round({}, {})
    assert watch.dead == ()


def test_only_a_few_of_many_are_asked() -> None:
    watch = Reach(("inside",), frozenset())
    many = {ip_address(f"10.0.0.{n}"): REACHABLE for n in range(1, 200)}
    assert len(watch.round({"inside": many}, {})["inside"]) == FEW


def test_the_kernel_asks_and_tells(pair: Lab) -> None:
    node = pair.nodes["fw1"]
    host, nobody = ip_address("192.168.0.3"), ip_address("192.168.0.250")
    whom = {"enp0s3": [host, nobody], "gone0": [host]}

    def answered() -> bool:
        with inside(node.namespace):
            states = reach.known()
            reach.ask(whom, states)
        found = {address: each.state for address, each in states.get("enp0s3", {}).items()}
        return found.get(host) == 0x02 and found.get(nobody) != 0x02

    wait_for("the host answers", answered, 5)


def test_a_program_that_stands_still_is_found_and_killed(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as program:
        group = tmp_path / "keepalived.service"
        group.mkdir()
        (group / "cgroup.procs").write_text(f"{program.pid}\n")
        watch = Guard(("keepalived", "conntrackd"), tmp_path)
        assert watch.look(0.0) == ()
        program.send_signal(signal.SIGSTOP)
        wait_for("it stands still", lambda: guard.stopped(program.pid))
        assert watch.look(1.0) == ()
        assert watch.look(3.1) == ("keepalived",)
        program.send_signal(signal.SIGCONT)
        wait_for("it runs", lambda: not guard.stopped(program.pid))
        assert watch.look(4.0) == ()
        assert guard.kill("keepalived", tmp_path)
        assert program.wait(5) == -signal.SIGKILL
    assert not guard.kill("conntrackd", tmp_path)
