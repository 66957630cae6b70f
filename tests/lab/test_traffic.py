"""Traffic over loopback, through a relay that breaks it: every kind of harm must be reported."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from appliance.lab import echo, traffic


class Relay:
    """Passes bytes between a client and an echo on loopback; `harm` may hold or change answers."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.harm: Callable[[bytes], bytes] = bytes
        self.flowing = threading.Event()
        self.flowing.set()
        self.stream = socket.create_server(("127.0.0.1", 0))
        self.port = self.stream.getsockname()[1]
        self.datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagram.bind(("127.0.0.1", self.port))
        self.ends: list[socket.socket] = [self.stream, self.datagram]
        for work in (self.relay_stream, self.relay_datagrams):
            threading.Thread(target=work, daemon=True).start()

    def relay_stream(self) -> None:
        near, _ = self.stream.accept()
        far = socket.create_connection(("127.0.0.1", self.target))
        self.ends += [near, far]
        threading.Thread(target=self.copy, args=[near, far, bytes], daemon=True).start()
        self.copy(far, near, self.harmed)

    def harmed(self, data: bytes) -> bytes:
        return self.harm(data)

    def copy(
        self, source: socket.socket, to: socket.socket, change: Callable[[bytes], bytes]
    ) -> None:
        try:
            while data := source.recv(4096):
                self.flowing.wait()
                to.sendall(change(data))
        except OSError:
            return

    def relay_datagrams(self) -> None:
        far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        far.connect(("127.0.0.1", self.target))
        self.ends.append(far)
        client = None
        while True:
            try:
                for end in select.select([self.datagram, far], [], [])[0]:
                    data, peer = end.recvfrom(2048)
                    if end is self.datagram:
                        client = peer
                        far.send(data) if self.flowing.is_set() else None
                    elif client:
                        self.datagram.sendto(data, client)
            except (OSError, ValueError):
                return

    def kill(self) -> None:
        for end in self.ends[2:]:
            end.close() if end.type == socket.SOCK_DGRAM else end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.flowing.set()
        for end in self.ends:
            end.close()


@pytest.fixture
def relay() -> Iterator[Relay]:
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, echo.__file__, str(port)])
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            select.select([], [], [], 0.02)
    relay = Relay(port)
    yield relay
    relay.close()
    server.kill()
    server.wait()


class Traffic:
    """The program as the host runs it."""

    def __init__(self, kind: str, **options: Any) -> None:
        order = {"it": {"kind": kind, **options}}
        argv = [sys.executable, "-m", traffic.__name__, json.dumps(order)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True)

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer.get("it", answer)

    def ask(self, what: str) -> dict[str, Any]:
        assert self.process.stdin
        print(what, file=self.process.stdin, flush=True)
        return self.read()


@pytest.fixture
def start(relay: Relay) -> Iterator[Callable[..., Traffic]]:
    started = []

    def begin(kind: str, **options: Any) -> Traffic:
        flow = Traffic(kind, to="127.0.0.1", port=relay.port, **options)
        started.append(flow)
        assert flow.read() == {"ready": True}
        return flow

    yield begin
    for flow in started:
        flow.process.kill()
        flow.process.communicate()


def run_for(seconds: float) -> None:
    select.select([], [], [], seconds)


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
    flow = Traffic("command", argv=["cat"], interval=0.02, size=1)
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
    flow = Traffic("tcp", to="127.0.0.1", port=port, **TCP)
    report = flow.read()
    assert not report["alive"]
    assert "never stood" in report["note"]
    flow.process.communicate()


def test_ping_over_loopback() -> None:
    flow = Traffic("ping", to="127.0.0.1", port=0, interval=0.02)
    assert flow.read() == {"ready": True}
    run_for(0.3)
    report = flow.ask("stop")
    assert report["sent"] == report["received"] > 5
    flow.process.communicate()
