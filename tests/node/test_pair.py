"""The pair with the real programs: what a client notices when a router dies, leaves or returns."""

from __future__ import annotations

import signal
from socket import SOCK_STREAM
from statistics import median

from tests.node.flows import tcp, udp
from tests.node.netns import Lab, Node, active, await_standby, standby, wait_for

ROUNDS = 3


def await_copy(node: Node, entries: int = 1) -> None:
    """Until the standby holds so many of the peer's connections."""
    wait_for(
        f"{node.name} holds {entries} entries",
        lambda: (node.state()["entries"] or {"external": 0})["external"] >= entries,
    )


def test_a_session_survives_each_loss_of_power_and_each_return(pair: Lab) -> None:
    stalls = []
    with tcp(pair) as session, udp(pair) as probe:
        assert session.alive(2)
        for _ in range(ROUNDS):
            await_copy(standby(pair), 2)
            dead, heir = active(pair), standby(pair)
            session.mark()
            probe.mark()
            dead.lose_power()
            wait_for("takeover", lambda heir=heir: heir.role() == "MASTER")
            assert session.alive(3), session
            stalls.append((probe.stall, session.stall, heir.state()["takeover"]["ms"]))
            dead.boot()
            assert dead.state()["gate"]["outcome"] == "the peer's table is here"
            await_standby(dead)
        assert session.broken is None
    print("probe, session (s), commit (ms):", stalls)
    assert median(probe_stall for probe_stall, _, _ in stalls) < 0.4


def test_what_is_idle_gets_its_whole_timeout(pair: Lab) -> None:
    """The peer heard of it last while data was under way, when the kernel gives it 300 s."""
    dead, heir = active(pair), standby(pair)
    with pair.socket("server", SOCK_STREAM) as listener, pair.socket("client", SOCK_STREAM) as end:
        listener.bind(("192.168.1.3", 7005))
        listener.listen()
        end.connect(("192.168.1.3", 7005))
        served, _ = listener.accept()
        with served:
            dead.run("conntrack", "-U", "-p", "tcp", "--dport", "7005", "-t", "200")
            with tcp(pair):
                await_copy(heir, 2)  # in the order in which it was told
            end.send(b"x")
            assert _timeout(dead) > 400_000
            dead.lose_power()
            wait_for("takeover", lambda: "whole timeout" in heir.log("agent").read_text())
            assert "gave 1 connections their whole timeout" in heir.log("agent").read_text()
            assert _timeout(heir) > 400_000
            served.send(b"y")
            assert end.recv(1) == b"y"


def _timeout(node: Node) -> int:
    """Seconds that the kernel gives the connection to port 7005."""
    listing = node.run("conntrack", "-L", "-p", "tcp", "--dport", "7005")
    return int(listing.split()[2])


def test_a_planned_handover_is_hardly_noticed(pair: Lab) -> None:
    stalls = []
    with tcp(pair) as session, udp(pair) as probe:
        assert session.alive(2)
        for _ in range(ROUNDS):
            old, new = active(pair), standby(pair)
            session.mark()
            probe.mark()
            done = old.hand_over()
            assert done.returncode == 0, done.stderr
            wait_for("new active node", lambda new=new: new.role() == "MASTER")
            await_standby(old)
            assert old.path("handover").read_text() == "0\n"
            assert session.alive(1)
            stalls.append((probe.stall, session.stall))
        assert session.broken is None
    print("probe, session (s):", stalls)
    assert median(probe_stall for probe_stall, _ in stalls) < 0.05


def test_a_standby_forgets_what_it_knew_and_no_session_notices(pair: Lab) -> None:
    old, new = active(pair), standby(pair)
    with tcp(pair, 7004) as session:
        await_copy(new)
        assert "dport=7004" in old.run("conntrack", "-L")
        assert old.hand_over().returncode == 0
        wait_for("old one forgets", lambda: "dport=7004" not in old.run("conntrack", "-L"))
        assert "dport=7004" in old.run(*old.conntrackd("-e"))
        assert "sport=3780" in old.run("conntrack", "-L"), "its own connections stay"
        assert "dport=7004" in new.run("conntrack", "-L")
        assert session.alive(1)
        assert new.hand_over().returncode == 0
        wait_for("back again", lambda: old.role() == "MASTER")
        assert session.alive(1)
        assert session.broken is None


def test_a_standby_cannot_hand_over(pair: Lab) -> None:
    done = standby(pair).hand_over()
    assert done.returncode == 1
    assert done.stderr == "no handover: this node is not the active one (its role is BACKUP)\n"


def test_connections_opened_while_conntrackd_was_dead_reach_the_peer(pair: Lab) -> None:
    node = active(pair)
    with tcp(pair) as before:
        assert before.alive(2)
        await_copy(standby(pair))  # with an entry there, the standby does not ask by itself
        node.kill("conntrackd")
    with tcp(pair, 7002) as session:
        assert session.alive(2)
        node.start_conntrackd()
        wait_for("the bulk", lambda: "missed" in node.log("agent").read_text())
        wait_for(
            "the connection at the standby",
            lambda: "dport=7002" in standby(pair).run(*standby(pair).conntrackd("-e")),
        )
        heir = standby(pair)
        node.lose_power()
        wait_for("takeover", lambda: heir.role() == "MASTER")
        assert session.alive(3), session


def test_what_the_loser_of_a_split_brain_accepted_is_kept(pair: Lab) -> None:
    deaf = "add table inet deaf; add chain inet deaf in { type filter hook input priority -300; }; "
    for node in pair.nodes.values():
        node.run("nft", deaf + "add rule inet deaf in meta l4proto 112 drop")
    wait_for("split brain", lambda: len(pair.active()) == 2)
    with tcp(pair, 7003) as session:
        assert session.alive(2)
        for node in pair.nodes.values():
            node.run("nft", "delete table inet deaf")
        wait_for("one active node", lambda: len(pair.active()) == 1)
        assert session.alive(3), session
        assert session.broken is None


def test_a_restarted_agent_finds_its_role_on_the_interfaces(pair: Lab) -> None:
    node = active(pair)
    node.kill("agent")
    node.start_agent()
    known = "this node is active already"
    wait_for("role", lambda: node.state()["gate"] and node.state()["gate"]["outcome"] == known, 3)
    assert node.role() == "MASTER"


def test_a_handover_killed_half_way_is_ended(pair: Lab) -> None:
    node = active(pair)
    node.path("handover").write_text("1\n")
    wait_for("fault", lambda: node.role() == "FAULT")
    wait_for("the agent ends it", lambda: node.role() == "BACKUP", 15)


def test_a_hung_conntrackd_neither_hangs_the_agent_nor_holds_up_vrrp(pair: Lab) -> None:
    node = standby(pair)
    node.programs["conntrackd"].send_signal(signal.SIGSTOP)
    try:
        wait_for("alarm", lambda: "conntrackd" in node.state()["alarms"])
        node.stop("keepalived")
        wait_for("news are heard", lambda: node.role() == "STOP")
        node.start_keepalived()
        wait_for("news are heard", lambda: node.role() == "BACKUP")
    finally:
        node.programs["conntrackd"].send_signal(signal.SIGCONT)
    wait_for("alarm over", lambda: "conntrackd" not in node.state()["alarms"])


class TestWithoutConntrackd:
    """The negative control: what the tests above prove is due to the synchronised state."""

    def test_the_same_loss_of_power_kills_the_session(self, lab: Lab) -> None:
        for node in lab.nodes.values():
            if node.programs:
                node.lose_power()
        lab.boot(conntrackd=False)
        wait_for("one active node", lambda: len(lab.active()) == 1)
        await_standby(standby(lab))
        assert active(lab).state()["gate"]["outcome"].startswith("conntrackd does not answer")
        with tcp(lab) as session:
            assert session.alive(2)
            dead, heir = active(lab), standby(lab)
            dead.lose_power()
            wait_for("takeover", lambda: heir.role() == "MASTER")
            assert not session.alive(4)
