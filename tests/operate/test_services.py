"""Virtual services: what a node says of them, their metrics, and taking servers out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from appliance.node import balancing, drain, ipvs, served, status
from appliance.node.checks import Verdict
from appliance.node.collect import collect
from appliance.node.ipvs import Daemon, Server, Service, Sync, Table
from appliance.node.metrics import exposition
from tests.node.ipvs_bytes import numbers
from tests.operate.nodes import router, state

ONE, TWO = ip_address("10.0.30.31"), ip_address("10.0.30.32")
SORRY = ip_address("10.0.30.99")
STATS = numbers(7, 70, 60, 7000, 6000, 1, 10, 9, 1000, 900)

Shown = pytest.CaptureFixture[str]


def kernel(*servers: tuple[Any, int]) -> Table:
    """A service with these servers and weights; the first has the connections."""
    entries = [Server(address, weight, 0, 0, 0, 0, STATS) for address, weight in servers]
    if entries:
        entries[0] = replace(entries[0], active=5, inactive=9, persistent=2)
    web = Service(4, 80, "mh", 300, STATS, tuple(entries))
    return Table((web,), (Daemon(Sync.MASTER, "sync0", 51),))


class Node:
    """A node's root, with the site's services and a kernel."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.kernel: Table | OSError = kernel((ONE, 3), (TWO, 1))
        monkeypatch.setattr(ipvs, "table", self.table)

    def table(self) -> Table:
        if isinstance(self.kernel, OSError):
            raise self.kernel
        return self.kernel

    def install(self, *, sorry: bool = False) -> None:
        drains = self.root / "drain"
        drains.mkdir()
        servers = tuple(
            balancing.RealServer((each,), 1, drains / f"web-{each}") for each in (ONE, TWO)
        )
        for each in servers:
            each.drain.write_text("0\n")
        addresses = (ip_address("198.51.100.10"),)
        web = balancing.Service("web", addresses, {4: 80}, servers, (SORRY,) if sorry else ())
        text = balancing.text(balancing.Balancing((web,), (), None))
        path = self.root / balancing.PATH.relative_to("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def told(self, capsys: Shown) -> dict[str, Any]:
        status.main(["--json", "--root", str(self.root)])
        return json.loads(capsys.readouterr().out)

    def servers(self, capsys: Shown) -> dict[str, tuple[str, int | None, str | None]]:
        (service,) = self.told(capsys)["balancing"]["services"]
        return {e["address"]: (e["state"], e["weight"], e["why"]) for e in service["servers"]}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bin_: Path) -> Iterator[Node]:
    made = Node(router(tmp_path / "root", state(ipvs=agent())), monkeypatch)
    made.install()
    return made


def agent(*servers: dict[str, Any]) -> dict[str, Any]:
    """What the agent writes of IPVS."""
    return {
        "connections": 14,
        "templates": 2,
        "difference": {"connections": -3, "templates": 0},
        "replayed": {"wall": 1.7e9, "seconds": 1.5, "connections": 14, "templates": 2},
        "servers": list(servers),
    }


def wrote(node: Node, **changed: Any) -> None:
    (node.root / "run/appliance/state.json").write_text(json.dumps(state(**changed)))


# What a node says


def test_each_server_with_its_weight_and_its_connections(node: Node, capsys: Shown) -> None:
    told = node.told(capsys)
    assert told["healthy"]
    (service,) = told["balancing"]["services"]
    assert (service["name"], service["version"], service["scheduler"]) == ("web", 4, "mh")
    assert service["addresses"] == ["198.51.100.10"]
    first = service["servers"][0]
    assert (first["state"], first["weight"], first["drained"]) == ("up", 3, False)
    assert (first["active"], first["inactive"], first["persistent"]) == (5, 9, 2)
    assert first["counts"]["packets_in_rate"] == 10


def test_what_a_person_is_told_of_services(node: Node, capsys: Shown) -> None:
    status.main(["--root", str(node.root)])
    shown = capsys.readouterr().out.splitlines()
    assert "  web (IPv4) at 198.51.100.10, mh, 1 new connections/s" in shown
    assert (
        "    10.0.30.31      up, weight 3; 5 active, 9 inactive, 2 persistent;"
        " 1 new/s, packets 10 in and 9 out/s"
    ) in shown
    (line,) = [each for each in shown if each.startswith("  ipvs")]
    assert "14 connections, 2 templates; -3 to the peer's; sent to the peer 2023-11-14" in line


def test_a_server_that_is_out_has_its_reason(node: Node, capsys: Shown) -> None:
    node.kernel = kernel((ONE, 3))
    out = {"mark": 80, "address": str(TWO), "state": "down", "since": 4.0, "why": "refused"}
    wrote(node, ipvs=agent(out))
    assert node.servers(capsys)[str(TWO)] == ("down", None, "refused")
    assert node.told(capsys)["healthy"]  # the other one serves
    node.kernel = kernel((ONE, 3), (TWO, 1))  # a moment later than the agent looked
    assert node.servers(capsys)[str(TWO)] == ("up", 1, None)


@pytest.mark.parametrize("table", [kernel(), kernel((ONE, 0)), Table((), ())])
def test_a_service_without_a_server_is_a_problem(node: Node, capsys: Shown, table: Table) -> None:
    node.kernel = table
    told = node.told(capsys)
    assert "virtual service web (IPv4) has no server" in told["problems"]


def test_a_sorry_server_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bin_: Path, capsys: Shown
) -> None:
    node = Node(router(tmp_path / "root", state(ipvs=agent())), monkeypatch)
    node.install(sorry=True)
    node.kernel = kernel((SORRY, 1))
    told = node.told(capsys)
    assert "virtual service web (IPv4) has no server: its sorry server answers" in told["problems"]
    assert node.servers(capsys)[str(ONE)][0] == "aside"


def test_a_kernel_that_does_not_answer_is_a_problem(node: Node, capsys: Shown) -> None:
    node.kernel = OSError("the kernel has no IPVS")
    assert "IPVS cannot be asked: the kernel has no IPVS" in node.told(capsys)["problems"]


def test_a_drained_server_is_shown_as_such(node: Node, capsys: Shown) -> None:
    (node.root / "drain" / f"web-{ONE}").write_text("1\n")
    node.kernel = kernel((ONE, 0), (TWO, 1))
    assert node.servers(capsys)[str(ONE)] == ("drained", 0, None)
    node.kernel = kernel((TWO, 1))
    assert node.servers(capsys)[str(ONE)][0] == "down"
    status.main(["--root", str(node.root)])
    assert "    10.0.30.31      down, drained; 0 active" in capsys.readouterr().out


def test_a_lone_node_asks_the_journal_itself(node: Node) -> None:
    asked = []

    def ask() -> dict[Any, Verdict]:
        asked.append(1)
        return {(80, TWO): Verdict(up=False, since=4.0, why="refused")}

    whole = kernel((ONE, 3), (TWO, 1))
    assert served.gather(node.root, None, table=lambda: whole, ask=ask)
    assert not asked
    told = served.gather(node.root, None, table=lambda: kernel((ONE, 3)), ask=ask)
    assert told
    assert told["services"][0]["servers"][1]["why"] == "refused"


def test_a_site_without_services_says_nothing_of_them(
    tmp_path: Path, bin_: Path, capsys: Shown
) -> None:
    root = router(tmp_path / "root", state())
    status.main(["--json", "--root", str(root)])
    assert json.loads(capsys.readouterr().out)["balancing"] is None


# Metrics


def test_services_in_prometheus_words(node: Node) -> None:
    (node.root / "drain" / f"web-{TWO}").write_text("1\n")
    node.kernel = kernel((ONE, 3), (TWO, 0))
    families = text_string_to_metric_families(exposition(collect(node.root)))
    found = {
        (s.name.removeprefix("appliance_"), *s.labels.values()): s.value
        for family in families
        for s in family.samples
    }
    web = ("web", "4")
    first, second = (*web, str(ONE)), (*web, str(TWO))
    assert found["service_servers_up", *web] == 1
    assert found["service_connections_total", *web] == 7
    assert found["server_state", *first, "up"] == 1
    assert found["server_state", *second, "drained"] == 1
    assert found["server_state", *second, "up"] == 0
    assert found["server_drained", *second] == 1
    assert found["server_weight", *first] == 3
    assert found["server_open_connections", *first, "inactive"] == 9
    assert found["server_received_bytes_total", *first] == 7000
    assert found["server_sent_packets_total", *first] == 60
    assert found["ipvs_entries", "templates"] == 2
    assert found["ipvs_difference_entries", "connections"] == -3
    assert found["ipvs_replay_duration_seconds",] == 1.5


# appliance-drain


def test_draining_is_written_and_taken_back(node: Node, capsys: Shown) -> None:
    config = str(node.root / balancing.PATH.relative_to("/"))
    file = node.root / "drain" / f"web-{ONE}"
    assert drain.main(["web", str(ONE), "--config", config]) == 0
    assert file.read_text() == "1\n"
    assert json.loads(capsys.readouterr().out) == {"addresses": [str(ONE)], "drained": True}
    assert drain.main(["web", str(ONE), "--undo", "--config", config]) == 0
    assert file.read_text() == "0\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("wob", str(ONE)), "no virtual service 'wob': web"),
        (("web", "10.0.0.1"), "no server '10.0.0.1' in virtual service 'web': 10.0.30.31, 10.0"),
    ],
)
def test_what_is_not_there_cannot_be_drained(
    node: Node, capsys: Shown, words: tuple[str, str], said: str
) -> None:
    config = str(node.root / balancing.PATH.relative_to("/"))
    assert drain.main([*words, "--config", config]) == 1
    assert said in capsys.readouterr().err
