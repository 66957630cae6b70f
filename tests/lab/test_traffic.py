"""Traffic over loopback, through a relay that breaks it: every kind of harm must be reported."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from appliance.lab import echo
from tests.lab.carried import Traffic, run_for
from tests.lab.relay import EchoRelay, Relay


@pytest.fixture
def relay() -> Iterator[Relay]:
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, echo.__file__, f"tcp/{port}", f"udp/{port}"])
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            select.select([], [], [], 0.02)
    relay = EchoRelay(port)
    yield relay
    relay.close()
    server.kill()
    server.wait()


@pytest.fixture
def start(relay: Relay) -> Iterator[Callable[..., Traffic]]:
    started = []

    def begin(kind: str, **options: Any) -> Traffic:
        flow = Traffic(it={"kind": kind, "to": "127.0.0.1", "port": relay.port, **options})
        started.append(flow)
        assert flow.read() == {"ready": True}
        return flow

    yield begin
    for flow in started:
        flow.process.kill()
        flow.process.communicate()


TCP = {"interval": 0.02, "size": 10}


def test_a_sound_stream_is_whole_alive_and_without_a_stall(start: Callable[..., Traffic]) -> None:
    flow = start("tcp", **TCP)
    run_for(1)
    peeked = flow.ask("peek")
    report = flow.ask("stop")
    assert report["whole"]
    assert report["alive"]
    assert report["sent"] == report["received"] > peeked["received"] > 200
    assert report["longest_stall"] < 0.5


def test_a_stall_is_measured_and_harms_nothing(relay: Relay, start: Callable[..., Traffic]) -> None:
    flow = start("tcp", **TCP)
    run_for(0.3)
    relay.flowing.clear()
    run_for(1.0)
    relay.flowing.set()
    run_for(0.3)
    report = flow.ask("stop")
    assert report["whole"]
    assert report["alive"]
    assert 0.9 < report["longest_stall"] < 1.6
    assert 0.1 < report["stall_at"] < 0.8


@pytest.mark.parametrize(
    "harm",
    [lambda data: b"#" + data[1:], lambda data: data[1:], lambda data: data + data],
    ids=["changed", "missing", "doubled"],
)
def test_a_damaged_stream_is_not_whole(
    relay: Relay, start: Callable[..., Traffic], harm: Callable[[bytes], bytes]
) -> None:
    flow = start("tcp", **TCP)
    run_for(0.2)
    relay.harm = harm
    run_for(0.3)
    report = flow.ask("stop")
    assert not report["whole"]
    assert not report["alive"]
    assert "broken" in report["note"]


def test_a_dead_connection_is_not_alive(relay: Relay, start: Callable[..., Traffic]) -> None:
    flow = start("tcp", **TCP)
    run_for(0.2)
    relay.kill()
    run_for(0.3)
    report = flow.ask("stop")
    assert not report["alive"]


def test_an_idle_connection_shows_at_the_end_that_it_still_carries(
    start: Callable[..., Traffic],
) -> None:
    flow = start("tcp", interval=None, size=10)
    run_for(0.5)
    report = flow.ask("stop")
    assert report["alive"]
    assert report["received"] == 20


def test_an_idle_connection_that_died_unnoticed_shows_at_the_end(
    relay: Relay, start: Callable[..., Traffic]
) -> None:
    flow = start("tcp", interval=None, size=10)
    relay.kill()
    assert not flow.ask("stop")["alive"]


def test_probes_count_what_is_lost_and_the_longest_silence(
    relay: Relay, start: Callable[..., Traffic]
) -> None:
    flow = start("udp", interval=0.005)
    run_for(0.3)
    relay.flowing.clear()
    run_for(0.5)
    relay.flowing.set()
    run_for(0.3)
    report = flow.ask("stop")
    assert 0.45 < report["longest_stall"] < 0.9
    assert 60 < report["sent"] - report["received"] < 140
    assert report["alive"]


def test_probes_into_a_lasting_silence_are_not_alive(
    relay: Relay, start: Callable[..., Traffic]
) -> None:
    flow = start("udp", interval=0.005)
    run_for(0.2)
    relay.flowing.clear()
    run_for(0.3)
    report = flow.ask("stop")
    assert not report["alive"]
    assert report["longest_stall"] > 0.25


def test_a_program_as_the_stream_is_watched_like_a_connection(
    start: Callable[..., Traffic],
) -> None:
    flow = Traffic(it={"kind": "command", "argv": ["cat"], "interval": 0.02, "size": 1})
    assert flow.read() == {"ready": True}
    run_for(0.3)
    report = flow.ask("stop")
    assert report["whole"]
    assert report["alive"]
    assert report["sent"] > 5
    flow.process.communicate()


def test_a_connection_that_never_stands_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flow = Traffic(it={"kind": "tcp", "to": "127.0.0.1", "port": port, **TCP})
    report = flow.read()["it"]
    assert not report["alive"]
    assert "never stood" in report["note"]
    flow.process.communicate()


def test_ping_over_loopback() -> None:
    flow = Traffic(it={"kind": "ping", "to": "127.0.0.1", "port": 0, "interval": 0.02})
    assert flow.read() == {"ready": True}
    run_for(0.3)
    report = flow.ask("stop")
    assert report["sent"] == report["received"] > 5
    flow.process.communicate()
