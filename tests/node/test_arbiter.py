from __future__ import annotations

from dataclasses import replace

from appliance.node.arbiter import Arbiter, Standing
from appliance.node.events import Role

DISPUTE = "both nodes are active: adverts do not arrive"
WORSE = "the peer reaches more of its neighbours"
ACTIVE = Standing(Role.MASTER, 100.0, dead=0, yields=False, rank="a")
STANDBY = Standing(Role.BACKUP, 100.0, dead=0, yields=False, rank="b")
NEW = Standing(Role.MASTER, 1.0, dead=0, yields=False, rank="b")


def judge(own: Standing, peer: Standing | None, *, adverts: bool = False) -> str | None:
    """The judgement after ten seconds of the same."""
    arbiter = Arbiter(0.7)
    for tenth in range(100):
        arbiter.judge(tenth / 10, own, peer, adverts)
    return arbiter.judge(10.0, own, peer, adverts)


def test_a_healthy_pair_stays_as_it_is() -> None:
    assert judge(ACTIVE, STANDBY) is None
    assert judge(STANDBY, ACTIVE, adverts=True) is None


def test_of_two_active_nodes_the_first_yields_and_the_newcomer_does_not() -> None:
    assert judge(ACTIVE, NEW) == DISPUTE
    assert judge(NEW, ACTIVE) is None


def test_vrrp_gets_its_time_to_settle() -> None:
    assert judge(ACTIVE, replace(NEW, role_s=0.6)) is None


def test_of_two_that_became_active_together_exactly_one_yields() -> None:
    one = replace(NEW, rank="a", role_s=5.0)
    other = replace(NEW, role_s=5.1)
    assert [judge(one, other), judge(other, one)].count(None) == 1


def test_who_yielded_in_a_dispute_returns_when_the_adverts_do() -> None:
    arbiter = Arbiter(0.7)
    assert arbiter.judge(1.0, ACTIVE, NEW, False) == DISPUTE
    aside = replace(STANDBY, role=Role.FAULT)
    assert arbiter.judge(2.0, aside, NEW, False) == DISPUTE
    assert arbiter.since == 1.0
    assert arbiter.judge(3.0, aside, NEW, True) is None


def test_who_yielded_returns_when_the_peer_is_gone_or_is_no_longer_active() -> None:
    for gone in (None, STANDBY, replace(NEW, role=Role.FAULT)):
        arbiter = Arbiter(0.7)
        assert arbiter.judge(1.0, ACTIVE, NEW, False) == DISPUTE
        assert arbiter.judge(2.0, STANDBY, gone, False) is None


def test_the_node_that_is_cut_off_yields_whatever_its_role() -> None:
    for own in (ACTIVE, STANDBY):
        assert judge(replace(own, dead=1), ACTIVE) == WORSE
    assert judge(replace(ACTIVE, dead=1), STANDBY) == WORSE
    assert judge(replace(ACTIVE, dead=1), replace(STANDBY, dead=1)) is None


def test_nobody_yields_to_a_peer_that_cannot_take_over() -> None:
    cut_off = replace(ACTIVE, dead=2)
    for peer in (
        None,
        replace(STANDBY, role=Role.FAULT),
        replace(STANDBY, role=Role.INIT),
        replace(STANDBY, yields=True),
        replace(STANDBY, role_s=1.0),
    ):
        assert judge(cut_off, peer) is None


def test_a_neighbour_that_dies_is_seen_by_one_node_first_and_moves_nothing() -> None:
    arbiter = Arbiter(0.7)
    for tenth in range(25):
        assert arbiter.judge(tenth / 10, replace(ACTIVE, dead=1), STANDBY, False) is None
    for tenth in range(25, 100):
        both = replace(STANDBY, dead=1)
        assert arbiter.judge(tenth / 10, replace(ACTIVE, dead=1), both, False) is None
