"""FTP in every phase and mode against a real server, through relays that break it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.carried import Traffic, run_for
from tests.lab.relay import Relay

CLONE = Path(__file__).resolve().parents[2]
SIZE = 1 << 20
SMALL = 1 << 16
FAST, SLOW = 1e6, 1e5  # bytes a second
PASSIVE = 8  # ports
V4, V6 = ("PASV", "EPSV", "PORT", "EPRT"), ("EPSV", "EPRT")


def free_ports(count: int) -> int:
    """The first of some ports in a row that nobody has, here or on the relays' address."""
    for first in range(20000, 30000, count):
        held = []
        try:
            for port in range(first, first + count):
                held += [socket.create_server((a, port)) for a in ("127.0.0.1", "127.0.0.2")]
            return first
        except OSError:
            continue
        finally:
            for end in held:
                end.close()
    raise AssertionError("no free ports")


class Place:
    """A server on 127.0.0.1 and ::1, and relays to it on 127.0.0.2: control, and data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, first = free_ports(1), free_ports(PASSIVE)
        self.files = {name: self.file(name, n) for name, n in (("data", SIZE), ("small", SMALL))}
        last = first + PASSIVE - 1
        words = [str(folder), str(self.port), str(first), str(last), "127.0.0.2"]
        self.log = folder.with_suffix(".log")
        with self.log.open("w") as log:
            argv = [sys.executable, "-m", "tests.lab.ftp_server", *words]
            self.server = subprocess.Popen(argv, cwd=CLONE, stderr=log)
        self.wait(self.listens)
        self.control = Relay(self.port, "127.0.0.2")
        ports = range(first, last + 1)
        self.data = [Relay(port, "127.0.0.2", port, buffer=4096) for port in ports]

    def file(self, name: str, size: int) -> dict[str, Any]:
        content = os.urandom(size)
        (self.folder / name).write_bytes(content)
        return {"file": name, "size": size, "sha256": hashlib.sha256(content).hexdigest()}

    def wait(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not done():
            assert time.monotonic() < end, self.log.read_text()
            run_for(0.05)

    def listens(self) -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", self.port)).close()
            return True
        return False

    def close(self) -> None:
        for relay in (self.control, *self.data):
            relay.close()
        self.server.kill()
        self.server.wait()

    def order(self, phase: str, mode: str = "PASV", rate: float = SLOW) -> dict[str, Any]:
        """What the program is told, through the relays."""
        order = {"kind": f"ftp {phase}", "to": "127.0.0.2", "port": self.control.port}
        if phase == "idle":
            return order
        order["mode"] = mode
        if phase == "upload":
            name = f"up-{mode}"
            file = {"file": name, "stored": str(self.folder / name), "size": 64 * SIZE}
            return {**order, **file, "rate": rate}
        if phase == "download":
            return {**order, **self.files["data"], "rate": rate}
        return {**order, **self.files["small"]}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    folder = tmp_path / "share"
    folder.mkdir()
    place = Place(folder)
    yield place
    place.close()


Start = Callable[..., Traffic]


@pytest.fixture
def start() -> Iterator[Start]:
    started = []

    def begin(**orders: dict[str, Any]) -> Traffic:
        flow = Traffic(**orders)
        started.append(flow)
        assert flow.read() == {"ready": True}
        return flow

    yield begin
    for flow in started:
        flow.process.kill()
        flow.process.communicate()


def unlike(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def everything(place: Place, modes: tuple[str, ...], **to: object) -> dict[str, dict[str, Any]]:
    phases = ("download", "upload", "next", "held")
    some = {f"{phase} {mode}": place.order(phase, mode) for phase in phases for mode in modes}
    return {name: {**order, **to} for name, order in {"idle": place.order("idle"), **some}.items()}


@pytest.mark.parametrize(
    ("modes", "address"), [(V4, "127.0.0.1"), (V6, "::1")], ids=["IPv4", "IPv6"]
)
def test_all_phases_in_all_modes_in_one_program_are_whole(
    place: Place, start: Start, modes: tuple[str, ...], address: str
) -> None:
    orders = everything(place, modes, to=address, port=place.port)
    flow = start(**orders)
    run_for(1)
    peeked = flow.ask_all("peek")
    reports = flow.ask_all("stop")
    assert len(reports) == len(orders)
    assert not {name: r for name, r in reports.items() if not (r["alive"] and r["whole"])}
    assert not {name: r for name, r in reports.items() if r["sent"] != r["received"]}
    for mode in modes:
        assert 0 < peeked[f"download {mode}"]["received"] < SIZE
        assert 0 < peeked[f"upload {mode}"]["received"] < reports[f"upload {mode}"]["sent"]
        assert reports[f"held {mode}"]["received"] == SMALL + 1
    assert {path.name for path in place.folder.iterdir()} == {"data", "small"}


def test_a_transfer_is_throttled_and_begins_anew_at_its_end(place: Place, start: Start) -> None:
    flow = start(down=place.order("download", rate=SIZE), up={**place.order("upload"), "size": 1})
    run_for(2.5)
    reports = flow.ask_all("peek")
    assert 1.5 * SIZE < reports["down"]["received"] < 3.5 * SIZE
    assert 1.2 * SLOW < reports["up"]["received"] < 3.5 * SLOW
    reports = flow.ask_all("stop")
    assert all(report["alive"] and report["whole"] for report in reports.values()), reports


@pytest.mark.parametrize("phase", ["download", "upload", "next", "held"])
def test_a_changed_byte_is_noticed(place: Place, start: Start, phase: str) -> None:
    flow = start(it=place.order(phase))
    for relay in place.data:
        relay.harm = relay.harm_to = unlike
    run_for(0.5)
    report = flow.ask("stop")
    assert not report["whole"]
    assert "other bytes" in report["note"]
    assert report["alive"]


@pytest.mark.parametrize("phase", ["download", "upload"])
def test_a_stall_of_a_transfer_is_measured(place: Place, start: Start, phase: str) -> None:
    flow = start(it=place.order(phase, rate=FAST))
    run_for(0.5)
    for relay in place.data:
        relay.flowing.clear()
    run_for(2)
    for relay in place.data:
        relay.flowing.set()
    run_for(0.5)
    report = flow.ask("stop")
    assert report["alive"], report
    assert report["whole"], report
    assert 1.4 < report["longest_stall"] < 2.8, report


@pytest.mark.parametrize("phase", ["idle", "download", "upload", "next", "held"])
def test_a_dead_control_connection_is_noticed(place: Place, start: Start, phase: str) -> None:
    flow = start(it=place.order(phase))
    place.control.kill()
    run_for(0.3)
    report = flow.ask("stop")
    assert not report["alive"]
    assert report["note"]


@pytest.mark.parametrize("phase", ["idle", "download", "upload", "next", "held"])
def test_a_broken_answer_of_the_control_connection_is_noticed(
    place: Place, start: Start, phase: str
) -> None:
    flow = start(it=place.order(phase))
    place.control.harm = lambda data: re.sub(rb"^(2|1)", b"5", data)
    report = flow.ask("stop")
    assert not report["alive"]
    assert "error_perm" in report["note"]


@pytest.mark.parametrize("phase", ["download", "upload"])
def test_a_dead_data_connection_is_noticed(place: Place, start: Start, phase: str) -> None:
    flow = start(it=place.order(phase))
    place.wait(lambda: any(relay.ends for relay in place.data))
    for relay in place.data:
        relay.kill()
    run_for(0.5)
    report = flow.ask("stop")
    assert not (report["alive"] and report["whole"])


@pytest.mark.parametrize("phase", ["next", "held"])
def test_a_refused_data_connection_is_noticed(place: Place, start: Start, phase: str) -> None:
    flow = start(it=place.order(phase))
    for relay in place.data:
        relay.refuse()
    report = flow.ask("stop")
    assert not report["alive"]
    assert "data connection to 127.0.0.2" in report["note"]
    assert "ConnectionRefusedError" in report["note"]


@pytest.mark.parametrize("mode", ["PORT", "EPRT"])
def test_a_server_that_never_connects_is_noticed(place: Place, start: Start, mode: str) -> None:
    """What a router does that forgot the expectation of an active transfer."""
    flow = start(it=place.order("next", mode))
    place.control.harm_to = lambda data: data.replace(mode.encode(), b"XXXX")
    report = flow.ask("stop")
    assert not report["alive"]
    assert mode in report["note"]


@pytest.mark.parametrize("mode", V4)
def test_what_is_held_is_asked_for_anew_before_it_is_forgotten(
    place: Place, start: Start, mode: str
) -> None:
    asked = []
    place.control.harm_to = lambda data: asked.append(data) or data
    flow = start(it={**place.order("held", mode), "renew": 0.2})
    run_for(1)
    before = [line for line in asked if line.startswith(mode.encode())]
    assert 4 <= len(before) <= 6
    assert not [line for line in asked if line.startswith(b"RETR")]
    report = flow.ask("stop")
    assert report["alive"], report
    assert report["whole"], report


def test_the_address_that_a_server_names_is_the_one_that_is_used(
    place: Place, start: Start
) -> None:
    """A router that does not rewrite it must be found out."""
    flow = start(it=place.order("next"))
    place.control.harm = lambda data: data.replace(b"127,0,0,2", b"127,0,0,3")
    report = flow.ask("stop")
    assert not report["alive"]
    assert "data connection to 127.0.0.3" in report["note"]
