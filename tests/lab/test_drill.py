"""How takeovers are counted: from what the hosts around are told, as the captures have it."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any, cast

import pytest

from appliance.lab import drill, pcap, qemu
from appliance.lab.cells import Cell, Kind
from appliance.lab.cells import Path as Way
from appliance.lab.errors import LabAssertion
from appliance.lab.faults import Fault, Scene
from appliance.lab.flows import Report
from appliance.site import load

EXAMPLE = Path(__file__).parents[2] / "examples/testcase.yaml"
VIRTUAL, OWN = "192.168.0.100", "192.168.0.1"
PROBE = Cell(Kind.UDP, Way("out", "inside", "outside", ip_address("192.168.1.3")))


def arp(machine: str, sender: str, target: str) -> bytes:
    home = bytes.fromhex(qemu.mac("testcase", machine, "inside").replace(":", ""))
    ends = IPv4Address(sender).packed, IPv4Address(target).packed
    body = bytes.fromhex("0001080006040001") + home + ends[0] + bytes(6) + ends[1]
    return b"\xff" * 6 + home + b"\x08\x06" + body


@dataclass
class FakeNode:
    name: str


@dataclass
class FakeLab:
    folder: Path
    marked: dict[str, int] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.plan = load(EXAMPLE)
        self.writers = {n: pcap.Writer(self.capture(n)) for n in self.plan.networks}

    @property
    def cables(self) -> FakeLab:  # no attribute: a cycle would keep the captures open
        return self

    def marks(self) -> dict[str, int]:
        return {name: writer.flush() for name, writer in self.writers.items()}

    def capture(self, network: str) -> Path:
        return self.folder / f"{network}.pcap"

    def active(self) -> FakeNode:
        return FakeNode("fw1")

    def standby(self) -> FakeNode:
        return FakeNode("fw2")

    def wait_ready(self, timeout: float) -> None:
        self.said.append("ready")


@pytest.fixture
def lab(tmp_path: Path) -> FakeLab:
    return FakeLab(tmp_path)


def told(lab: FakeLab, *frames: bytes) -> int:
    watch = drill.Watch.begin(cast(Any, lab))
    for frame in frames:
        lab.writers["inside"].add(0, frame)
    return watch.takeovers()


def test_each_move_of_the_virtual_address_is_one_takeover(lab: FakeLab) -> None:
    one, two = (arp(node, VIRTUAL, VIRTUAL) for node in ("fw1", "fw2"))
    assert told(lab, two, two, two) == 1
    assert told(lab, one, two, two, one) == 2


def test_a_refresh_by_the_active_node_is_none(lab: FakeLab) -> None:
    assert told(lab, *[arp("fw1", VIRTUAL, VIRTUAL)] * 3) == 0


def test_questions_and_other_addresses_are_none(lab: FakeLab) -> None:
    own, question = arp("fw2", OWN, OWN), arp("fw2", VIRTUAL, "192.168.0.3")
    assert told(lab, own, question, b"\0" * 60) == 0


class FakeLoad:
    """Answers `many` more at each look."""

    probe = PROBE

    def __init__(self, lab: FakeLab, many: int = 50) -> None:
        self.lab, self.many, self.received = lab, many, 0

    def peek(self) -> dict[Cell, Report]:
        self.received += self.many
        return {PROBE: Report(0, self.received, 0, 0, 0, True, True, "")}


def acts(lab: FakeLab, word: str) -> Any:
    def act(scene: Scene) -> None:
        lab.said.append(f"{word} {scene.active.name}")

    return act


def test_a_fault_strikes_is_healed_and_proven(
    lab: FakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = Fault("proof", acts(lab, "kill"), acts(lab, "start"))
    monkeypatch.setattr(drill, "POWER_LOSS", proof)
    fault = Fault("fault", acts(lab, "strike"), acts(lab, "heal"), proof=True)
    drill.undergo(cast(Any, lab), fault, cast(Any, FakeLoad(lab)))
    once = ["strike fw1", "heal fw1", "ready"]
    assert lab.said == [*once, "kill fw1", "start fw1", "ready"]


def test_a_pair_that_does_not_carry_is_found_out(lab: FakeLab) -> None:
    with pytest.raises(LabAssertion, match="no answer in 0 s: udp, out"):
        drill.wait_carries(cast(Any, FakeLoad(lab, many=0)), timeout=0)
