"""What VRRP alone cannot settle, with the real programs: adverts that do not arrive, and cables
that swallow frames in one direction while their carrier stays up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.node.flows import tcp
from tests.node.netns import Lab, Node, active, await_standby, standby, wait_for

DEAF = "add table inet deaf; add chain inet deaf in { type filter hook input priority -300; }; "


@contextmanager
def without_adverts(lab: Lab) -> Iterator[None]:
    for node in lab.nodes.values():
        node.run("nft", DEAF + "add rule inet deaf in meta l4proto 112 drop")
    yield
    for node in lab.nodes.values():
        node.run("nft", "delete table inet deaf")


@contextmanager
def swallowing(node: Node, card: str, way: str) -> Iterator[None]:
    """Every frame is lost in one direction: `egress` from the node, `ingress` to it."""
    chain = f"type filter hook {way} device {card} priority -500; policy drop;"
    node.run("nft", f"add table netdev mute; add chain netdev mute cut {{ {chain} }}")
    yield
    node.run("nft", "delete table netdev mute")


def settled(lab: Lab, on: Node, limit: float = 20.0) -> None:
    """`on` alone is active, and has been so for longer than a dispute takes."""

    def alone() -> bool:
        state = on.state()
        in_role = state["written"]["monotonic"] - state["since"]["monotonic"]
        return lab.active() == [on.name] and in_role > 3

    wait_for(f"{on.name} alone is active", alone, limit)


def test_without_adverts_one_node_yields_and_comes_back_when_they_do(pair: Lab) -> None:
    old, new = active(pair), standby(pair)
    with tcp(pair, 7010) as session:
        assert session.alive(2)
        with without_adverts(pair):
            settled(pair, on=new)
            assert old.state()["alarms"]["yields"].startswith("both nodes are active")
            assert 0.5 < new.state()["both_active"]["seconds"] < 3
            assert session.alive(3), session
        wait_for("the other stands by again", lambda: old.role() == "BACKUP")
        assert "yields" not in old.state()["alarms"]
        assert pair.active() == [new.name]
        assert session.alive(1)
        assert session.broken is None
    await_standby(old)


@pytest.mark.parametrize("way", ["egress", "ingress"])
@pytest.mark.parametrize("card", ["enp0s3", "enp0s4"])
def test_a_cable_that_swallows_frames_costs_the_role_but_no_session(
    pair: Lab, card: str, way: str
) -> None:
    hurt, other = active(pair), standby(pair)
    with tcp(pair, 7011) as session:
        assert session.alive(2)
        with swallowing(hurt, card, way):
            settled(pair, on=other, limit=30)
            assert session.alive(5), session
        wait_for("it stands by again", lambda: hurt.role() == "BACKUP", 20)
        assert pair.active() == [other.name]
        assert session.alive(2)
        assert session.broken is None
    await_standby(hurt)


def test_such_a_cable_costs_the_role_also_after_the_standbys_agent_was_restarted(
    pair: Lab,
) -> None:
    hurt, other = active(pair), standby(pair)
    with tcp(pair, 7013) as session:
        assert session.alive(2)
        other.kill("agent")
        other.start_agent()
        assert session.alive(3)
        with swallowing(hurt, "enp0s4", "ingress"):
            settled(pair, on=other, limit=30)
        wait_for("it stands by again", lambda: hurt.role() == "BACKUP", 20)
        assert session.alive(2)
        assert session.broken is None
    await_standby(hurt)


@pytest.mark.parametrize("way", ["egress", "ingress"])
def test_a_standby_with_such_a_cable_stays_aside(pair: Lab, way: str) -> None:
    well, hurt = active(pair), standby(pair)
    with tcp(pair, 7012) as session:
        assert session.alive(2)
        with swallowing(hurt, "enp0s3", way):
            wait_for("it stays aside", lambda: hurt.role() == "FAULT", 30)
            settled(pair, on=well, limit=30)
            assert session.alive(5), session
        wait_for("it stands by again", lambda: hurt.role() == "BACKUP", 20)
        assert session.broken is None
    await_standby(hurt)
