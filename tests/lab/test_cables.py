"""The switch process with real sockets, and that it ends with the lab whatever happens."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.lab.cables import UPLINK, Cables, Link
from appliance.lab.children import Children
from appliance.lab.errors import HarnessError
from appliance.lab.pcap import read
from appliance.lab.switch import Way

A, B = bytes([0x52, 0, 0, 0, 0, 1]), bytes([0x52, 0, 0, 0, 0, 2])
TYPE = b"\x88\xb5"


class Machine:
    """A machine as a link sees it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.carrier = {"net": True}

    def set_carrier(self, network: str, *, up: bool) -> None:
        self.carrier[network] = up


@pytest.fixture
def children() -> Iterator[Children]:
    children = Children()
    yield children
    children.close()


@pytest.fixture
def cables(children: Children, tmp_path: Path) -> Iterator[Cables]:
    cables = Cables(children, tmp_path, {"net": ["a", "b"]})
    yield cables
    cables.close()


def arrives(end: socket.socket, within: float = 5.0) -> bytes | None:
    return end.recv(2048) if select.select([end], [], [], within)[0] else None


def settled(condition: Callable[[], bool], within: float = 10.0) -> bool:
    end = time.monotonic() + within
    while not condition() and time.monotonic() < end:
        select.select([], [], [], 0.02)
    return condition()


def test_frames_pass_and_are_captured(cables: Cables) -> None:
    with cables.plug("net", "a") as a, cables.plug("net", "b") as b:
        a.send(B + A + TYPE + b"there")
        assert arrives(b) == B + A + TYPE + b"there"
        b.send(A + B + TYPE + b"back")
        assert arrives(a) == A + B + TYPE + b"back"
        cables.marks()
        frames = [record.frame for record in read(cables.capture("net"))]
        assert frames == [B + A + TYPE + b"there", A + B + TYPE + b"back"]
        assert cables.counts()["net"]["a"] == {"in": 1, "out": 1}


def test_a_vlan_is_captured_apart_and_without_its_tag(children: Children, tmp_path: Path) -> None:
    cables = Cables(children, tmp_path, {"net": ["a", "b"]}, {"net": {"dmz": 30}})
    ours, theirs = (B + A + bytes.fromhex(f"8100 00{tag}") + TYPE + b"x" for tag in ("1e", "1f"))
    with cables.plug("net", "a") as a, cables.plug("net", "b") as b:
        for frame in (ours, theirs, B + A + TYPE + b"bare"):
            a.send(frame)
            assert arrives(b) == frame
    cables.marks()
    assert [record.frame for record in read(cables.capture("dmz"))] == [B + A + TYPE + b"x"]
    seen = [record.frame for record in read(cables.capture("net"))]
    assert seen == [theirs, B + A + TYPE + b"bare"]
    cables.close()


def test_two_switches_are_one_network(children: Children, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one = Cables(children, tmp_path, {"net": ["a", UPLINK]})
    other = Cables(children, tmp_path / "other", {"link": ["b", UPLINK]})
    one.patch("net", other, "link")
    with one.plug("net", "a") as a, other.plug("link", "b") as b:
        a.send(B + A + TYPE + b"there")
        assert arrives(b) == B + A + TYPE + b"there"
        b.send(A + B + TYPE + b"back")
        assert arrives(a) == A + B + TYPE + b"back"
    other.close()
    one.close()


def test_a_link_is_cut_with_its_carrier_and_silenced_without(cables: Cables) -> None:
    machine = Machine("b")
    link = Link(cables, machine, "net")
    with cables.plug("net", "a") as a, cables.plug("net", "b") as b:
        link.cut()
        assert machine.carrier == {"net": False}
        a.send(B + A + TYPE + b"lost")
        cables.counts()
        link.mend()
        assert machine.carrier == {"net": True}
        link.silence(Way.TO)
        assert machine.carrier == {"net": True}
        a.send(B + A + TYPE + b"lost")
        cables.counts()
        link.mend()
        a.send(B + A + TYPE + b"found")
        assert arrives(b) == B + A + TYPE + b"found"


def test_delay_holds_frames_back(cables: Cables) -> None:
    with cables.plug("net", "a") as a, cables.plug("net", "b") as b:
        Link(cables, Machine("b"), "net").delay(200)
        begin = time.monotonic()
        a.send(B + A + TYPE)
        assert arrives(b)
        assert 0.19 < time.monotonic() - begin < 2


def test_a_restarted_machine_gets_a_fresh_cable_without_old_frames(cables: Cables) -> None:
    with cables.plug("net", "a") as a:
        with cables.plug("net", "b"):
            a.send(B + A + TYPE + b"to the dead")
            cables.counts()
        a.send(B + A + TYPE + b"to nobody")  # its end is closed: no harm to the switch
        cables.counts()
        cables.unplug("net", "b")
        with cables.plug("net", "b") as b:
            a.send(B + A + TYPE + b"to the new")
            assert arrives(b) == B + A + TYPE + b"to the new"


def test_a_machine_that_does_not_read_loses_frames_and_harms_nobody(cables: Cables) -> None:
    with cables.plug("net", "a") as a, cables.plug("net", "b") as b:
        for number in range(3000):
            a.send(B + A + TYPE + number.to_bytes(2, "big"))
        cables.counts()
        got = []
        while (frame := arrives(b, 0.5)) is not None:
            got.append(int.from_bytes(frame[14:], "big"))
        assert got == sorted(got)
        assert 1000 <= len(got) < 3000


def test_a_dead_switch_is_a_broken_harness(children: Children, tmp_path: Path) -> None:
    cables = Cables(children, tmp_path, {"net": ["a"]})
    cables._process.kill()
    with pytest.raises(HarnessError, match=r"switch\.log"):
        cables.counts()
    cables.close()


LAB = """
import sys, time
from pathlib import Path
from appliance.lab.children import Children
from appliance.lab.cables import Cables
children = Children()
cables = Cables(children, Path(sys.argv[1]), {"net": ["a"]})
sleeper = children.start(["sleep", "1000"], log=Path(sys.argv[1]) / "log")
print(cables._process.pid, sleeper.pid, flush=True)
sys.stdin.read()
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_children_die_with_a_lab_that_is_killed(tmp_path: Path) -> None:
    lab = subprocess.Popen(
        [sys.executable, "-c", LAB, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert lab.stdout
    pids = [int(word) for word in lab.stdout.readline().split()]
    assert all(alive(pid) for pid in pids)
    os.kill(lab.pid, signal.SIGKILL)
    lab.communicate()
    assert settled(lambda: not any(alive(pid) for pid in pids))
