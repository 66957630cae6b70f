"""`appliance status | handover | sessions`, with a command in the place of ssh."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from appliance.operate.sessions import Session, Standby, judge, through
from appliance.site import load
from tests.operate.ssh import EXAMPLES, Site, facts

Shown = pytest.CaptureFixture[str]
STATUS = "appliance-status --json"


# status


def test_a_healthy_pair_side_by_side(site: Site, capsys: Shown) -> None:
    assert site.call("status") == 0
    shown = capsys.readouterr().out
    assert "testcase: healthy" in shown
    (roles,) = [line for line in shown.splitlines() if "role" in line]
    assert roles.index("MASTER") < roles.index("BACKUP")
    assert "1 h 1 min" in shown
    assert "all 2 active" in shown
    assert sorted(site.log()) == [f"192.168.0.{n} {STATUS}" for n in (1, 2)]


def test_a_node_that_is_not_reached_is_a_column_that_says_so(site: Site, capsys: Shown) -> None:
    site.gone("fw2")
    assert site.call("status") == 1
    shown = capsys.readouterr().out
    assert "not reached" in shown
    assert "MASTER" in shown
    assert "problem: fw2 (192.168.0.2) is not reached: ssh: connect to host" in shown


def test_what_a_node_finds_wrong_is_the_sites_trouble(site: Site, capsys: Shown) -> None:
    wrong = ["conntrackd.service is inactive"]
    site.answer("fw2", STATUS, facts("fw2", "BACKUP", problems=wrong, healthy=False), code=1)
    assert site.call("status") == 1
    assert "problem: fw2: conntrackd.service is inactive" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("roles", "words"),
    [(("MASTER", "MASTER"), "both nodes are active"), (("BACKUP", "FAULT"), "no node is active")],
)
def test_what_only_both_together_can_tell(
    site: Site, capsys: Shown, roles: tuple[str, str], words: str
) -> None:
    for name, role in zip(("fw1", "fw2"), roles, strict=True):
        site.answer(name, STATUS, facts(name, role))
    assert site.call("status", "--json") == 1
    assert json.loads(capsys.readouterr().out)["problems"] == [words]


def test_a_difference_is_said_once_however_many_see_it(site: Site, capsys: Shown) -> None:
    words = "fw1 and fw2 differ in their image version: 7 and 8"
    for name, version, role in (("fw1", "7", "MASTER"), ("fw2", "8", "BACKUP")):
        told = facts(name, role, version=version, problems=[words], healthy=False)
        site.answer(name, STATUS, told, code=1)
    assert site.call("status", "--json") == 1
    assert json.loads(capsys.readouterr().out)["problems"] == [words]


def test_another_site_file_than_this_is_a_note(site: Site, capsys: Shown) -> None:
    digest = load(EXAMPLES / "testcase.yaml").digest
    site.answer("fw1", STATUS, facts("fw1", "MASTER", digest=digest))
    site.answer("fw2", STATUS, facts("fw2", "BACKUP", digest=digest))
    assert site.call("status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["notes"] == []
    for name, role in (("fw1", "MASTER"), ("fw2", "BACKUP")):
        site.answer(name, STATUS, facts(name, role))
    assert site.call("status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["notes"] == [
        f"{name} is not made from this site file, but from abababababab" for name in ("fw1", "fw2")
    ]


def test_the_document_has_both_nodes(site: Site, capsys: Shown) -> None:
    site.gone("fw2")
    assert site.call("status", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["site"], told["healthy"]) == ("testcase", False)
    assert told["nodes"]["fw1"]["state"]["role"] == "MASTER"
    assert told["nodes"]["fw1"]["reached"] is True
    assert told["nodes"]["fw2"]["reached"] is False


def test_a_bad_site_file_and_a_bad_network(site: Site, capsys: Shown) -> None:
    assert site.call("status", site="no-such") == 2
    assert site.call("status", "--via", "outside") == 1
    assert "SSH is not open on network 'outside'" in capsys.readouterr().err


# handover

GAVE = {"handed_over": True, "released_ms": 113.4, "gap_ms": 12.2}


def swapped(site: Site) -> str:
    """What a handover does to the answers."""
    for name, role in (("fw1", "BACKUP"), ("fw2", "MASTER")):
        path = site.net / f"192.168.0.{name[-1]}/after"
        path.write_text(json.dumps(facts(name, role)))
    return f'for n in 1 2; do mv ../192.168.0.$n/after "../192.168.0.$n/{STATUS}"; done\n'


def test_a_handover_is_reported_when_the_other_says_that_it_is_active(
    site: Site, capsys: Shown
) -> None:
    site.answer("fw1", "appliance-handover --json", GAVE, then=swapped(site))
    assert site.call("handover", "--to", "fw2") == 0
    assert capsys.readouterr().out == (
        "fw1 -> fw2: fw2 says that it is active\n"
        "  fw1 let go of the addresses in 113 ms\n"
        "  fw2 was active 12 ms after that (seen from fw1, within 20 ms)\n"
        "  fw2 had the connections in its kernel 2.5 ms later\n"
    )
    assert site.log()[-1] == f"192.168.0.2 {STATUS}"


def test_a_handover_for_machines(site: Site, capsys: Shown) -> None:
    site.answer("fw1", "appliance-handover --json", GAVE | {"gap_ms": None}, then=swapped(site))
    assert site.call("handover", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "giver": "fw1",
        "taker": "fw2",
        "released_ms": 113.4,
        "gap_ms": None,
        "commit_ms": 2.5,
    }


def test_a_node_that_is_active_already_is_left_alone(site: Site, capsys: Shown) -> None:
    assert site.call("handover", "--to", "fw1") == 0
    assert capsys.readouterr().out == "fw1 is active already: nothing to do\n"
    assert not [line for line in site.log() if "handover" in line]


def test_a_refusal_is_passed_on(site: Site, capsys: Shown) -> None:
    refused = {"handed_over": False, "reason": "no word from the peer (waited 3 s)"}
    site.answer("fw1", "appliance-handover --json", refused, code=1)
    assert site.call("handover") == 1
    assert "fw1: no handover: no word from the peer (waited 3 s)" in capsys.readouterr().err


def test_nothing_is_handed_to_a_node_that_is_not_reached(site: Site, capsys: Shown) -> None:
    site.gone("fw2")
    assert site.call("handover") == 1
    assert "fw2 (192.168.0.2) is not reached" in capsys.readouterr().err
    assert not [line for line in site.log() if "handover" in line]


def test_without_one_active_node_nothing_is_done(site: Site, capsys: Shown) -> None:
    site.answer("fw1", STATUS, facts("fw1", "FAULT"))
    assert site.call("handover") == 1
    said = capsys.readouterr().err
    assert "not exactly one node is active: fw1 is FAULT; fw2 is BACKUP" in said


def test_a_node_that_the_site_does_not_have(site: Site) -> None:
    assert site.call("handover", "--to", "fw3") == 2


# sessions


def flow(**changed: Any) -> dict[str, Any]:
    """A TCP session of the client through source NAT."""
    return {
        "number": 6,
        "protocol": "tcp",
        "original": ["192.168.0.3", 41524, "192.168.1.3", 22],
        "reply": ["192.168.1.3", 22, "192.168.1.100", 41524],
        "state": "ESTABLISHED",
        "timeout": 299,
        "expected": False,
        "helper": None,
        "expects": 0,
        "shifted": False,
        **changed,
    }


KEY = "6 192.168.0.3 41524 192.168.1.3 22"
HELD = Standby(frozenset([KEY]))
AGENTS = Standby(frozenset([KEY]), announces=True)
BUSY = Standby(frozenset([KEY]), announces=True, unacknowledged=True)
FTP = {"helper": "ftp"}
TO_US = {"original": ["192.168.0.3", 5, "192.168.0.1", 22], "reply": ["192.168.0.1", 22, "x", 5]}
TO_PEER = {"original": ["192.168.0.3", 5, "192.168.1.2", 22], "reply": ["192.168.1.2", 22, "x", 5]}
NOT_AT_WORK = "the agents that carry what the helper knows are not at work on both nodes"

VERDICTS = [
    ("held", {}, HELD, None),
    ("on the router", TO_US, HELD, "ends on the router itself"),
    ("at the peer", TO_PEER, HELD, "192.168.1.2 is one node's own address: not synchronised"),
    ("icmp", {"number": 1, "protocol": "icmp"}, HELD, "icmp is not synchronised"),
    ("opening", {"state": "SYN_SENT"}, HELD, "not established yet (SYN_SENT)"),
    ("not held", {}, Standby(frozenset()), "not in the standby's cache"),
    ("unknown", {}, Standby(None, "x"), "what the standby holds is not known"),
    ("another port", {"original": ["192.168.0.3", 1, "192.168.1.3", 22]}, HELD,
     "not in the standby's cache"),
    ("udp", {"number": 17, "protocol": "udp", "state": "ASSURED"},
     Standby(frozenset([KEY.replace("6", "17", 1)])), None),
    ("ftp", FTP, HELD, None),
    ("shifted", {**FTP, "shifted": True}, HELD, NOT_AT_WORK),
    ("shifted, announced", {**FTP, "shifted": True}, AGENTS, None),
    ("expecting", {**FTP, "expects": 1}, HELD, NOT_AT_WORK),
    ("expecting, acknowledged", {**FTP, "expects": 1}, AGENTS, None),
    ("expecting, under way", {**FTP, "expects": 1}, BUSY,
     "an announced data connection is not acknowledged by the standby"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "standby", "reason"),
    [case[1:] for case in VERDICTS],
    ids=[case[0] for case in VERDICTS],
)
def test_what_survives_and_why_not(
    changed: dict[str, Any], standby: Standby, reason: str | None
) -> None:
    here = frozenset(["192.168.0.1", "192.168.0.100", "192.168.1.100"])
    excluded = frozenset(["192.168.0.1", "192.168.0.2", "192.168.1.1", "192.168.1.2"])
    seen = flow(**changed)
    assert judge(seen, standby, here=here, excluded=excluded) == Session(
        seen, reason is None, reason
    )


def test_what_is_over_neither_survives_nor_dies() -> None:
    over = flow(state="TIME_WAIT")
    nobody = frozenset[str]()
    assert judge(over, HELD, here=nobody, excluded=nobody) == Session(over, None, None)


def test_what_the_nodes_say_to_each_other_is_no_session() -> None:
    talk = flow(original=["192.168.3.1", 1, "192.168.3.2", 3780], reply=["192.168.3.2", 2, "", 0])
    ours = frozenset(["192.168.3.1", "192.168.3.2"])
    assert list(through([talk, flow()], ours)) == [flow()]


def sessions(site: Site, *flows: dict[str, Any], held: tuple[str, ...] = (KEY,)) -> None:
    own = ["127.0.0.1", "192.168.0.1", "192.168.0.100", "192.168.1.1", "192.168.1.100"]
    head = {"node": "fw1", "role": "MASTER", "addresses": own, "expectations": {"peer": True}}
    site.answer("fw1", "appliance-sessions", {**head, "items": list(flows)})
    held_there = {"node": "fw2", "role": "BACKUP", "items": list(held)}
    site.answer("fw2", "appliance-sessions --held", held_there)


def test_what_runs_through_the_active_node(site: Site, capsys: Shown) -> None:
    sessions(site, flow(), flow(helper="ftp", original=["2001:db8::3", 5, "2001:db8::4", 21]))
    assert site.call("sessions") == 0
    heads, first, second = capsys.readouterr().out.splitlines()
    assert heads.split() == [
        *("protocol", "client", "server"),
        *("translated", "state", "helper", "left"),
    ]
    assert first.split("  ")[0] == "tcp"
    assert "192.168.0.3:41524  192.168.1.3:22" in first
    assert "from 192.168.1.100:41524" in first
    assert first.endswith("4 min 59 s")
    assert "[2001:db8::3]:5" in second
    assert not [line for line in site.log() if "--held" in line]


def test_which_would_survive(site: Site, capsys: Shown) -> None:
    fresh = flow(original=["192.168.0.3", 9, "192.168.1.3", 22])
    sessions(site, fresh, flow(), flow(state="TIME_WAIT"))
    assert site.call("sessions", "--will-survive") == 0
    _, first, over, last, total = capsys.readouterr().out.splitlines()
    assert first.endswith("  yes")
    assert over.endswith("  it is over")
    assert last.endswith("  no: not in the standby's cache")
    assert total == "1 of 2 would survive"


def test_which_would_survive_for_machines(site: Site, capsys: Shown) -> None:
    sessions(site, flow())
    assert site.call("sessions", "--will-survive", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["active"] == "fw1"
    assert told["sessions"] == [{**flow(), "survives": True, "reason": None}]


def test_a_standby_that_is_not_reached_holds_nothing_that_is_known(
    site: Site, capsys: Shown
) -> None:
    sessions(site, flow())
    site.gone("fw2")
    assert site.call("sessions", "--will-survive") == 0
    shown = capsys.readouterr()
    assert "no: what the standby holds is not known" in shown.out
    assert "0 of 1 would survive" in shown.out
    assert "fw2 (192.168.0.2) is not reached" in shown.err


def test_a_conntrackd_that_does_not_answer_on_the_standby(site: Site, capsys: Shown) -> None:
    sessions(site, flow())
    site.answer("fw2", "appliance-sessions --held", "", code=1)
    assert site.call("sessions", "--will-survive") == 0
    assert "fw2: appliance-sessions: exit code 1, and no answer" in capsys.readouterr().err


def test_a_hundred_thousand_take_seconds(site: Site, capsys: Shown) -> None:
    many = [
        flow(original=[f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 1, "192.168.1.3", 22])
        for n in range(100_000)
    ]
    held = tuple(f"6 {each['original'][0]} 1 192.168.1.3 22" for each in many[1:])
    sessions(site, *many, held=held)
    begin = time.monotonic()
    assert site.call("sessions", "--will-survive") == 0
    assert time.monotonic() - begin < 30
    assert capsys.readouterr().out.endswith("99999 of 100000 would survive\n")
