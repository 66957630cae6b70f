"""The metrics, read by Prometheus's own parser and over real sockets."""

from __future__ import annotations

import http.client
import json
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from appliance.node.collect import Teller, collect
from appliance.node.exporter import Server
from appliance.node.metric import Kind
from appliance.node.metrics import METRICS, exposition
from tests.node.fake import FakeConntrackd
from tests.operate.nodes import DIGEST, router, state
from tests.operate.test_services import Node, agent

Families = dict[str, Metric]


@pytest.fixture
def root(tmp_path: Path, bin_: Path) -> Iterator[Path]:
    """A node of a pair with everything that the metrics show."""
    root = router(tmp_path / "root", state(alarms={"peer": 'says "no"\n'}, dead=["enp0s3"]))
    sizes = {"nf_conntrack_count": 17, "nf_conntrack_max": 262144}
    memory = root / "sys/fs/cgroup/system.slice/appliance-agent.service"
    for folder in (root / "proc/sys/net/netfilter", memory, root / "run/conntrackd"):
        folder.mkdir(parents=True)
    for name, size in sizes.items():
        (root / "proc/sys/net/netfilter" / name).write_text(f"{size}\n")
    (memory / "memory.current").write_text("12345678\n")
    with FakeConntrackd(root / "run/conntrackd/control", received=99):
        yield root


def parsed(text: str) -> Families:
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(families: Families, name: str, **labels: str) -> float:
    (found,) = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == f"appliance_{name}" and sample.labels == labels
    ]
    return float(found)


def test_a_node_in_prometheus_words(root: Path) -> None:
    families = parsed(exposition(collect(root)))
    build = {"node": "fw1", "site": "testcase", "digest": DIGEST, "version": "7"}
    assert value(families, "build_info", **build) == 1
    assert value(families, "role", role="master") == 1
    assert value(families, "role", role="backup") == 0
    assert value(families, "takeover_duration_seconds") == 0.0025
    assert value(families, "transitions_total", role="backup") == 2
    assert value(families, "conntrackd_received_packets_total") == 99
    assert value(families, "conntrack_entries") == 17
    assert value(families, "firewall_bytes_total", counter="refused-input") == 896
    assert value(families, "unit_memory_bytes", unit="appliance-agent.service") == 12345678
    assert value(families, "alarm", alarm="peer") == 1
    assert value(families, "peer_same_site") == 1
    assert value(families, "both_active_total") == 2
    assert value(families, "expectations", state="here") == 1
    assert value(families, "healthy") == 0, "there is an alarm"


def test_every_sample_is_of_a_declared_metric_with_its_labels(root: Path) -> None:
    text = exposition(collect(root))
    declared = {metric.name: metric for metric in METRICS}
    assert len(declared) == len(METRICS)
    for family in parsed(text).values():
        for sample in family.samples:
            metric = declared[sample.name]
            assert set(sample.labels) == set(metric.labels)
            assert family.type == metric.kind
            assert family.documentation == metric.help
            assert math.isfinite(sample.value)
    assert text.endswith("\n")


def test_names_are_in_the_manner_of_prometheus() -> None:
    for metric in METRICS:
        assert metric.name.endswith("_total") is (metric.kind is Kind.COUNTER)
        assert not metric.name.endswith(("_ms", "_kb", "_minutes"))
        assert "\n" not in metric.help


def test_everything_that_is_declared_can_be_seen(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Node(root, monkeypatch).install()
    took = {"wall": 1.7e9, "held": 3, "ms": 1.5, "created": 2, "failures": {"EBUSY": 1}}
    file = root / "run/appliance/expectations.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"takeover": took}))
    standby = state(
        sync={"lag_s": 0.1, "lost": 0, "unacknowledged": 0, "difference": -3}, ipvs=agent()
    )
    seen = set()
    for wrote in (state(alarms={"gate": "late"}, dead=["enp0s3"]), standby):
        (root / "run/appliance/state.json").write_text(json.dumps(wrote))
        seen |= {s.name for f in parsed(exposition(collect(root))).values() for s in f.samples}
    assert seen == {metric.name for metric in METRICS}


def test_where_nothing_is_known_nothing_is_made_up(tmp_path: Path, bin_: Path) -> None:
    families = parsed(exposition(collect(tmp_path)))
    assert set(families) == {
        *("appliance_build_info", "appliance_healthy", "appliance_problems"),
        *("appliance_firewall_packets", "appliance_firewall_bytes"),
    }
    assert value(families, "healthy") == 0


def test_a_label_may_hold_anything(root: Path) -> None:
    odd = 'a "name"\\ with\nlines'
    (root / "run/appliance/state.json").write_text(json.dumps(state(alarms={odd: ""})))
    assert value(parsed(exposition(collect(root))), "alarm", alarm=odd) == 1


# Over sockets


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as link:
        return link.connect_ex(str(path)) == 0


@pytest.fixture
def source(root: Path, tmp_path: Path) -> Iterator[Path]:
    """A collector that tells of that node."""
    path = tmp_path / "collect"
    command = [sys.executable, "-m", "appliance.node.collect", str(path), str(root)]
    with subprocess.Popen(command) as program:
        deadline = time.monotonic() + 10
        while not listens(path):
            assert time.monotonic() < deadline
            time.sleep(0.02)  # poll
        yield path
        program.terminate()


@pytest.fixture(params=["127.0.0.1", "::1"])
def server(request: pytest.FixtureRequest, source: Path) -> Iterator[Server]:
    with Server(request.param, 0, source) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def get(server: Server, path: str, method: str = "GET") -> tuple[int, str, str]:
    client = http.client.HTTPConnection(str(server.server_address[0]), server.server_port, 10)
    client.request(method, path)
    answer = client.getresponse()
    return answer.status, answer.headers["Content-Type"], answer.read().decode()


def test_a_scrape_over_http(server: Server) -> None:
    code, kind, text = get(server, "/metrics")
    assert (code, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert value(parsed(text), "role", role="master") == 1


def test_nothing_else_is_served(server: Server) -> None:
    assert get(server, "/")[0] == 404
    assert get(server, "/metrics/../etc/passwd")[0] == 404
    assert get(server, "/metrics", "POST")[0] == 501


def test_without_the_collector_nothing_old_is_told(server: Server, source: Path) -> None:
    source.unlink()
    assert get(server, "/metrics")[0] == 503


def test_a_client_that_says_nothing_holds_up_nobody(server: Server) -> None:
    with socket.create_connection(server.server_address[:2]):
        assert get(server, "/metrics")[0] == 200


def test_the_collector_asks_again_only_after_a_second() -> None:
    calls: list[float] = []
    teller = Teller(lambda: calls.append(time.monotonic()) or {"calls": len(calls)})
    assert [teller.told() for _ in range(3)] == [b'{"calls": 1}'] * 3
    deadline = time.monotonic() + 5
    while teller.told() != b'{"calls": 2}':
        assert time.monotonic() < deadline
        time.sleep(0.05)  # poll
    assert calls[1] - calls[0] >= 1


def test_a_conntrackd_that_is_not_there_is_no_reason_to_say_nothing(root: Path) -> None:
    (root / "etc/appliance/agent.json").unlink()
    families = parsed(exposition(collect(root)))
    assert "appliance_conntrackd_sent_bytes" not in families
    assert value(families, "conntrack_entries") == 17
