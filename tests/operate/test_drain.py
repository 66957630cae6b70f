"""`appliance drain | undrain | status` on a balancer, with a command in the place of ssh."""

from __future__ import annotations

import json
from typing import Any

import pytest

from appliance.operate import drain
from appliance.operate.drain import Left, watch
from tests.operate.ssh import Site, facts

Shown = pytest.CaptureFixture[str]
STATUS = "appliance-status --json"
ONE, TWO = "10.11.12.21", "10.11.12.22"


def server(address: str, active: int, **changed: Any) -> dict[str, Any]:
    counts = {"connections_rate": 2}
    return {
        "address": address,
        "names": [address],
        "state": "up",
        "since": None,
        "why": None,
        "drained": False,
        "weight": 1,
        "active": active,
        "inactive": 1,
        "persistent": 4,
        "counts": counts,
        **changed,
    }


def balancing(*servers: dict[str, Any], name: str = "ftp") -> dict[str, Any]:
    service = {
        "name": name,
        "version": 4,
        "mark": 21,
        "addresses": ["203.0.113.10"],
        "scheduler": "mh",
        "counts": {"connections_rate": 3},
        "sorry": [],
    }
    return {"trouble": None, "services": [{**service, "servers": list(servers)}]}


def say(site: Site, *servers: dict[str, Any], lb2: tuple[dict[str, Any], ...] = ()) -> None:
    """What both nodes say of the service's servers; lb1 is active."""
    for name, role, those in (("lb1", "MASTER", servers), ("lb2", "BACKUP", lb2 or servers)):
        told = facts(name, role, balancing=balancing(*those), digest=None)
        site.answer(name, STATUS, told)


@pytest.fixture
def pair(site: Site) -> Site:
    """A balancer whose active node has connections on its first server."""
    say(site, server(ONE, 3), server(TWO, 0), lb2=(server(ONE, 2), server(TWO, 0)))
    for name in ("lb1", "lb2"):
        for undo in ("", " --undo"):
            site.answer(name, f"appliance-drain ftp {ONE}{undo}", {"drained": not undo})
    return site


def call(site: Site, *arguments: str) -> int:
    return site.call(*arguments, site="ftp-lvs")


# drain


def test_both_nodes_are_told_and_what_is_left_is_shown(pair: Site, capsys: Shown) -> None:
    assert call(pair, "drain", "ftp", ONE) == 0
    for address in ("10.11.12.2", "10.11.12.3"):
        assert f"{address} appliance-drain ftp {ONE}" in pair.log()
    shown = capsys.readouterr().out
    assert shown == (
        "3 active connections and 1 inactive ones are left; 4 clients were held to it\n"
    )


def test_it_waits_until_nothing_is_left(
    pair: Site, capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "_LOOK_EVERY_S", 0.01)
    later = facts("lb1", "MASTER", balancing=balancing(server(ONE, 0, inactive=0)), digest=None)
    # The next time that it is asked, the connections are gone.
    (pair.net / "10.11.12.2" / "later").write_text(json.dumps(later))
    then = f"cp later '{STATUS}'"
    told = facts("lb1", "MASTER", balancing=balancing(server(ONE, 3)), digest=None)
    pair.answer("lb1", STATUS, told, then=then)
    assert call(pair, "drain", "ftp", ONE, "--wait", "60") == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == ["3", "0"]


def test_what_is_left_when_the_time_is_up_is_no_success(pair: Site, capsys: Shown) -> None:
    assert call(pair, "drain", "ftp", ONE, "--wait", "0.01", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["left"] == {"active": 3, "inactive": 1, "persistent": 4}
    assert told["nodes"] == {"lb1": None, "lb2": None}


def test_a_node_that_does_not_know_of_it_is_told_of(pair: Site, capsys: Shown) -> None:
    (pair.net / "10.11.12.3").rename(pair.net / "gone")
    assert call(pair, "drain", "ftp", ONE) == 1
    shown = capsys.readouterr()
    assert "lb2 (10.11.12.3) is not reached" in shown.err
    assert "3 active connections" in shown.out


def test_when_no_node_is_reached_nothing_was_done(site: Site, capsys: Shown) -> None:
    assert call(site, "drain", "ftp", ONE) == 1
    assert "is not reached" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("mail", ONE), "site ftp-lvs has no virtual service 'mail'"),
        (("ftp", "10.0.0.1"), "virtual service 'ftp' has no server '10.0.0.1'"),
    ],
)
def test_what_is_not_there_is_said_before_anybody_is_asked(
    pair: Site, capsys: Shown, words: tuple[str, str], said: str
) -> None:
    assert call(pair, "drain", *words) == 1
    assert said in capsys.readouterr().err
    assert not (pair.net / "log").exists()


@pytest.mark.parametrize("aside", [{"drained": True}, {"state": "down", "weight": None}], ids=str)
def test_it_is_refused_where_connections_would_be_cut(
    site: Site, capsys: Shown, aside: dict[str, Any]
) -> None:
    """web-bundle has a sorry server, and one of its two is drained already, or down on a node."""
    one, two = "10.11.12.31", "10.11.12.32"
    for name, role, other in (("lb1", "MASTER", {}), ("lb2", "BACKUP", aside)):
        servers = server(one, 3), server(two, 0, **other)
        told = facts(name, role, balancing=balancing(*servers, name="web"), digest=None)
        site.answer(name, STATUS, told)
    assert site.call("drain", "web", one, site="web-bundle") == 1
    shown = capsys.readouterr().err
    assert "the servers that are left of 'web' weigh 0, and it needs 1" in shown
    assert not [line for line in site.log() if "appliance-drain" in line]
    site.answer("lb1", f"appliance-drain web {two}", {})
    site.answer("lb2", f"appliance-drain web {two}", {})
    assert site.call("drain", "web", two, site="web-bundle") == 0


def test_it_is_taken_back_on_both(pair: Site, capsys: Shown) -> None:
    assert call(pair, "undrain", "ftp", ONE) == 0
    assert capsys.readouterr().out == f"{ONE} is back in ftp\n"
    for address in ("10.11.12.2", "10.11.12.3"):
        assert f"{address} appliance-drain ftp {ONE} --undo" in pair.log()


def test_the_watch_ends_in_time_when_nobody_tells() -> None:
    assert list(watch(lambda: None, 0.0)) == [None]
    assert list(watch(lambda: Left(0, 0, 9), 60.0)) == [Left(0, 0, 9)]


# status


# A script's path and an IPv6 address stand in brackets, as markup does.
WHY = "check of [fd00::32] by [/etc/x]"


def test_each_service_is_a_table(pair: Site, capsys: Shown) -> None:
    down = server(TWO, 0, state="down", weight=None, why=WHY, counts=None)
    say(pair, server(ONE, 3), server(TWO, 0), lb2=(server(ONE, 2), down))
    assert call(pair, "status") == 0
    shown = capsys.readouterr().out
    assert "ftp (IPv4) at 203.0.113.10: mh, 3 new/s" in shown
    (line,) = [each for each in shown.splitlines() if TWO in each]
    assert [cell.strip() for cell in line.split("│")[1:-1]] == [
        *(TWO, "up 1", "down", "0", "1", "4", "2", WHY),
    ]


def test_a_server_that_only_one_node_has_drained_is_a_problem(pair: Site, capsys: Shown) -> None:
    drained = server(ONE, 2, state="drained", weight=0, drained=True)
    say(pair, server(ONE, 3), server(TWO, 0), lb2=(drained, server(TWO, 0)))
    assert call(pair, "status") == 1
    shown = capsys.readouterr().out
    assert f"problem: {ONE} of virtual service ftp is drained on lb2 only" in shown
