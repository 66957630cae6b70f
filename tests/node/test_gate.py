from __future__ import annotations

from collections.abc import Callable

from appliance.node.conntrackd import Stats
from appliance.node.gate import Gate, Outcome, Verdict

TICK = 0.1

World = Callable[[float], tuple[bool, Stats | None]]


def run(world: World, limit: float = 15.0, absent: float = 3.0) -> tuple[Verdict, int]:
    """The verdict in a world that is a function of time, and how often the peer was asked."""
    gate, now, asked = Gate(100.0, limit, absent), 100.0, 0
    while now < 200:
        verdict = gate.observe(now, *world(now - 100))
        asked += gate.wants_table
        if verdict:
            return verdict, asked
        now += TICK
    raise AssertionError("the gate never ends")


def heard(external: float, at: float) -> Stats:
    """A peer that says each second that it is alive."""
    return Stats(0, int(external), int(at))


def outcome(world: World) -> tuple[Outcome, int]:
    verdict, _ = run(world)
    return verdict.outcome, round(verdict.seconds)


def test_a_dead_peer_is_noticed_soon_with_or_without_carrier() -> None:
    assert outcome(lambda _: (True, Stats(0, 0, 0))) == (Outcome.ABSENT, 3)
    assert outcome(lambda _: (False, Stats(0, 0, 0))) == (Outcome.ABSENT, 3)


def test_what_an_earlier_run_of_the_agent_received_is_no_sign_of_life() -> None:
    assert outcome(lambda _: (True, Stats(0, 500, 9999))) == (Outcome.ABSENT, 3)


def test_a_link_that_comes_up_late_gives_the_peer_its_whole_time() -> None:
    late = outcome(lambda at: (at > 2, heard(20, at - 4) if at > 4 else Stats(0, 0, 0)))
    assert late == (Outcome.HELD, 6)
    assert outcome(lambda at: (at > 2, Stats(0, 0, 0))) == (Outcome.ABSENT, 5)


def test_a_flapping_link_cannot_hold_the_gate_beyond_its_limit() -> None:
    assert outcome(lambda at: (int(at) % 2 == 0, Stats(0, 0, 0))) == (Outcome.ABSENT, 15)


def test_a_table_that_grows_is_waited_for() -> None:
    verdict, _ = run(lambda at: (True, heard(min(at, 6) * 10_000, at)))
    assert (verdict.outcome, verdict.entries) == (Outcome.HELD, 60_000)
    assert 6.5 < verdict.seconds < 7.5


def test_daily_traffic_does_not_hold_the_gate() -> None:
    assert outcome(lambda at: (True, heard(10_000 + 100 * at, at)))[0] is Outcome.HELD


def test_a_table_without_end_ends_by_the_limit_and_is_an_alarm() -> None:
    verdict, _ = run(lambda at: (True, heard(1.5**at * 1000, at)))
    assert (verdict.outcome, round(verdict.seconds)) == (Outcome.LATE, 15)
    assert verdict.alarming


def test_a_peer_with_nothing_is_asked_again_and_then_believed() -> None:
    verdict, asked = run(lambda at: (True, heard(0, at)))
    assert (verdict.outcome, round(verdict.seconds)) == (Outcome.NOTHING, 3)
    assert asked == 2


def test_a_broken_conntrackd_is_an_alarm_and_no_obstacle() -> None:
    verdict, _ = run(lambda _: (True, None))
    assert (verdict.outcome, round(verdict.seconds)) == (Outcome.BROKEN, 5)
    assert verdict.alarming


def test_a_conntrackd_that_dies_at_the_gate_is_noticed() -> None:
    assert outcome(lambda at: (True, heard(0, 0) if at < 1 else None)) == (Outcome.BROKEN, 6)
