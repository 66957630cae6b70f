"""What the agents tell each other, and what follows from the numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from hypothesis import given
from hypothesis import strategies as st

from appliance.node.balance import Balance, Remedy
from appliance.node.events import Role
from appliance.node.peer import EVERY_S, Peer, Word, decode, encode

WORD = Word(
    run=1,
    number=1,
    rank="172.31.255.1",
    node="fw1",
    site="testcase",
    digest="d",
    version="1",
    role=Role.MASTER,
    role_s=3.5,
    active=(10.0, 0.0),
    dead=("enp0s3",),
    neighbours={"enp0s4": ["192.168.1.3"]},
    internal=7,
    alarms={"peer": "silent"},
)


def test_a_word_arrives_as_it_was_said() -> None:
    assert decode(encode(WORD)) == WORD
    assert decode(encode(replace(WORD, active=None))) == replace(WORD, active=None)


def test_what_a_newer_version_says_besides_is_passed_over() -> None:
    assert decode(json.dumps(asdict(WORD) | {"mood": "fine"}).encode()) == WORD


@given(st.binary() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(repr))
def test_what_is_no_word_is_none(noise: bytes | str) -> None:
    assert decode(noise.encode() if isinstance(noise, str) else noise) is None


def test_each_word_counts_once_and_lost_ones_are_counted() -> None:
    peer = Peer()
    assert peer.take(WORD, 0.0)
    assert not peer.take(WORD, 0.0), "the second link brings it again"
    assert peer.take(replace(WORD, number=4), 0.6)
    assert peer.lost == 2
    assert peer.take(replace(WORD, run=2, number=1), 0.8), "a restarted agent counts anew"
    assert peer.lost == 2
    assert peer.present(1.7)
    assert peer.present(1.9) is None


def overlap(silence: float, missed: int) -> float:
    """Seconds that both were active: we for 5 s, the peer for 100 s, unheard for `silence`."""
    peer = Peer()
    peer.take(replace(WORD, active=(100.0, 0.0)), 0.0)
    told = replace(WORD, number=2 + missed, active=(100.0, 0.0))
    peer.take(told, silence)
    return peer.active_with((5.0, 0.0), silence)


def test_how_long_both_were_active_counts_what_the_network_swallowed() -> None:
    assert overlap(5.5, round(5.5 / EVERY_S)) == 5.0


def test_a_node_that_was_frozen_was_not_active_meanwhile() -> None:
    assert overlap(5.5, 0) == 0.0


def test_no_overlap_of_times_that_did_not_meet() -> None:
    peer = Peer()
    peer.take(replace(WORD, active=(100.0, 6.0)), 0.0)
    assert peer.active_with((5.0, 0.0), 0.0) == 0.0
    assert peer.active_with((7.0, 0.0), 0.0) == 1.0
    assert peer.active_with(None, 0.0) == 0.0


def remedies(*counts: tuple[int, int]) -> list[Remedy]:
    balance = Balance()
    return [balance.look(*each) for each in counts]


def test_small_differences_are_what_is_under_way() -> None:
    assert remedies((0, 0), (40, 0), (10_000, 10_400)) == [Remedy.NONE] * 3


def test_what_stays_different_is_treated_more_and_more_firmly() -> None:
    behind = remedies(*[(0, 1000)] * 6)
    assert behind[:4] == [Remedy.NONE, Remedy.ASK, Remedy.WANT, Remedy.WANT]
    assert behind[4:] == [Remedy.ALARM] * 2
    ahead = remedies(*[(1000, 0)] * 6)
    assert ahead[:4] == [Remedy.NONE, Remedy.ASK, Remedy.RENEW, Remedy.WANT]


def test_what_evens_out_begins_anew() -> None:
    assert remedies((0, 1000), (0, 1000), (990, 1000), (0, 1000))[2:] == [Remedy.NONE] * 2
