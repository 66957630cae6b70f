"""The promise of the pair: a session that runs through it outlives the node that carries it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from appliance.lab import flows
from appliance.lab.drill import Watch
from appliance.lab.expect import prove_all
from appliance.lab.faults import Scene, one_rule_more, reload
from appliance.lab.pair import Lab
from vmtests.observe import moves, typing, until

LONGEST_STALL = 5.0  # seconds a person at the keyboard may wait: the takeover, and TCP's back-off
CACHE = "conntrackd -C /etc/conntrackd/conntrackd.conf -e"


def test_one_node_is_active_and_the_other_holds_its_connections(pair: Lab) -> None:
    with typing(pair) as session:
        held = "ESTABLISHED src=192.168.0.3 dst=192.168.1.3 .*dport=22"
        pair.standby().wait_until(f"{CACHE} | grep -q '{held}'", 10)
        assert session.stop().survived
    assert pair.active() is not pair.standby()


def test_session_survives_power_loss_and_the_return_of_the_dead_node_with_an_empty_disk(
    pair: Lab,
) -> None:
    with typing(pair) as session:
        lost, heir = pair.active(), pair.standby()
        lost.kill()
        pair.wait_active(heir)
        moves(session)
        lost.start(fresh_disk=True)
        pair.wait_ready(timeout=300)
        assert pair.active() is heir, "the node that came back took the role (nopreempt)"
        moves(session)
        heir.kill()  # only what the returned node was told can save the session now
        pair.wait_active(lost)
        moves(session)
        report = session.stop()
    assert report.survived
    assert report.longest_stall < LONGEST_STALL, report


@pytest.mark.parametrize(
    "network", ["inside", *(pytest.param(n, marks=pytest.mark.long) for n in ("outside", "sync"))]
)
def test_session_survives_a_cut_link_of_the_active_node(pair: Lab, network: str) -> None:
    with typing(pair) as session:
        hurt, other = pair.active(), pair.standby()
        pair.link(hurt.name, network).cut()
        pair.wait_active(hurt if network == "sync" else other)
        moves(session)
        pair.mend()
        pair.wait_ready()
        moves(session)
        report = session.stop()
    assert report.survived
    assert report.longest_stall < LONGEST_STALL, report


def test_session_survives_planned_handovers_there_and_back(pair: Lab) -> None:
    with typing(pair) as session:
        for _ in range(2):
            giver, taker = pair.active(), pair.standby()
            giver.succeed("appliance-handover")
            pair.wait_active(taker)
            moves(session)
            pair.wait_ready()
        report = session.stop()
    assert report.survived
    assert report.longest_stall < LONGEST_STALL, report


def test_a_changed_site_is_loaded_without_a_change_of_roles(
    pair: Lab, rounds: Callable[[int, int], range]
) -> None:
    """Both nodes' keepalived go on as they are: no process ends, no virtual address moves. One
    reload may do no harm by luck.
    """
    before, watch = keepalived(pair), Watch.begin(pair)
    assert all(told[1:] == ["RR", "60", "1000000", "2000000"] for told in before.values()), before
    with typing(pair) as session:
        for plan in (one_rule_more(pair.plan), pair.plan):
            reload(Scene.now(pair), plan)
            moves(session, count=30)
        for node in pair.nodes.values():
            for _ in rounds(5, 30):
                node.succeed("systemctl reload keepalived; sleep 0.3")
        assert session.stop().survived
    assert keepalived(pair) == before
    assert watch.takeovers() == 0


def keepalived(pair: Lab) -> dict[str, list[str]]:
    """Its process on each node: number, scheduling class and priority, and how many microseconds
    of processor time may pass without a sleep until it is warned, and until it is killed.
    """
    ask = (
        "pid=$(pgrep -P $(systemctl show -P MainPID keepalived)); ps -o pid=,cls=,rtprio= -p $pid; "
        "sed -n 's/^Max realtime timeout//p' /proc/$pid/limits"
    )
    return {name: node.succeed(ask).split()[:5] for name, node in pair.nodes.items()}


def test_what_the_site_expects_holds_for_real_packets(pair: Lab) -> None:
    assert len(prove_all(pair)) == len(pair.plan.expectations) == 2


def test_a_false_claim_is_found_out(pair: Lab) -> None:
    """The negative control of `expect`: with the ruleset gone, the claim to drop does not hold."""
    opened = "nft flush chain inet appliance forward && "
    opened += "nft add rule inet appliance forward accept"
    for node in pair.nodes.values():
        node.succeed(f"nft list table inet appliance >/run/kept.nft && {opened}")
    try:
        with pytest.raises(AssertionError, match="expected drop"):
            prove_all(pair)
    finally:
        for node in pair.nodes.values():
            node.succeed("systemctl reload nftables")


def test_new_connections_and_pings_pass(pair: Lab) -> None:
    inside, outside = pair.hosts["inside"], pair.hosts["outside"]
    for start in (flows.tcp, flows.http, flows.ping):
        with start(inside, outside.address) as flow:
            until(lambda flow=flow: flow.peek().received >= 5, 20, f"{flow.words} to pass")
            assert flow.stop().survived


@pytest.mark.last
def test_without_state_sync_the_same_power_loss_kills_the_session(pair: Lab) -> None:
    """The negative control: what survives above, survives because of the synced state."""
    for node in pair.nodes.values():
        node.succeed("systemctl stop conntrackd")
    with typing(pair) as session:
        lost, heir = pair.active(), pair.standby()
        lost.kill()
        pair.wait_active(heir)
        with typing(pair) as fresh:
            moves(fresh)  # the way through the pair is open: only the old session is dead
        with pytest.raises(AssertionError, match="to go on"):
            moves(session, count=1)
        assert not session.stop().survived
    heir.succeed("systemctl start conntrackd")
