"""A pair undergoes a fault while traffic runs through it, and what became of the traffic.

outcome = drill(lab, POWER_LOSS, load.cells(paths))
assert all(report.survived for report in outcome.reports.values())
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import pairwise

from appliance.lab import faults, load, pcap, qemu
from appliance.lab.errors import LabAssertion
from appliance.lab.faults import POWER_LOSS, READY_WITHIN, Fault, Scene
from appliance.lab.flows import Report
from appliance.lab.frames import ARP
from appliance.lab.load import Cell, Kind, Load
from appliance.lab.pair import Lab

CARRIES_WITHIN = 60.0  # seconds from a strike until traffic passes again, at worst
ANSWERS = 20  # of each probe, until a path is said to carry
BETWEEN_LOOKS = 0.2  # seconds


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a fault did: each cell's report, how often the virtual addresses moved, how long the
    whole took in seconds.
    """

    fault: str
    reports: Mapping[Cell, Report]
    takeovers: int
    seconds: float

    @property
    def gap(self) -> float:
        """The longest time in seconds in which a probe had no answer; the worst of all paths."""
        probes = (r for cell, r in self.reports.items() if cell.kind is Kind.UDP)
        return max(probe.longest_stall for probe in probes)


@dataclass(frozen=True, slots=True)
class Watch:
    """When a drill began, who was active then, and how long the captures were."""

    lab: Lab
    active: str
    marks: Mapping[str, int]
    began: float

    @classmethod
    def begin(cls, lab: Lab) -> Watch:
        """From now on."""
        return cls(lab, lab.active().name, lab.cables.marks(), time.monotonic())

    def outcome(self, fault: str, reports: Mapping[Cell, Report]) -> Outcome:
        """What came of it until now."""
        return Outcome(fault, reports, self.takeovers(), time.monotonic() - self.began)

    def takeovers(self) -> int:
        """How often the virtual addresses moved to the other node, as the hosts around were told
        by gratuitous ARP; of several networks the largest figure.
        """
        self.lab.cables.marks()  # let the captures be whole until now
        return max(
            _moves([self._home(name), *_homes(self.lab, name, mark)])
            for name, mark in self.marks.items()
            if self.lab.plan.networks[name].virtual
        )

    def _home(self, network: str) -> str:
        """The MAC address of who was active: a VLAN has that of its card."""
        plan = self.lab.plan
        return qemu.mac(plan.site, self.active, plan.card(network))


def drill(
    lab: Lab, fault: Fault, cells: Iterable[Cell], *, interval: float = load.PROBE
) -> Outcome:
    """Begin ready, start the traffic, strike, heal, and end ready again. `interval` is the probes',
    in seconds.

    LabAssertion when the pair does not carry, or is not ready, in time.
    """
    watch = Watch.begin(lab)
    with load.start(lab, cells, interval=interval) as traffic:
        undergo(lab, fault, traffic)
        return watch.outcome(fault.name, traffic.stop())


def undergo(lab: Lab, fault: Fault, traffic: Load) -> None:
    """One fault, from its strike until the pair is whole again; with its proof if it has one."""
    scene = Scene.now(lab)
    fault.strike(scene)
    wait_carries(traffic)
    faults.wait(fault.lasts)
    fault.heal(scene)
    lab.wait_ready(READY_WITHIN)
    wait_carries(traffic)
    if fault.proof:
        undergo(lab, POWER_LOSS, traffic)


def wait_carries(traffic: Load, timeout: float = CARRIES_WITHIN) -> None:
    """Wait until each probe has new answers, or without any probe each busy flow; LabAssertion
    after `timeout` seconds.
    """
    if traffic.probe is None:
        traffic.moves(timeout)
        return
    goal = {cell: count + ANSWERS for cell, count in _answers(traffic).items()}
    end, pause = time.monotonic() + timeout, threading.Event()
    while silent := [cell for cell, count in _answers(traffic).items() if count < goal[cell]]:
        if time.monotonic() > end:
            raise LabAssertion(f"no answer in {timeout:g} s: {', '.join(map(str, silent))}")
        pause.wait(BETWEEN_LOOKS)


def _answers(traffic: Load) -> dict[Cell, int]:
    reports = traffic.peek()
    return {cell: report.received for cell, report in reports.items() if cell.kind is Kind.UDP}


def _moves(homes: list[str]) -> int:
    return sum(one != other for one, other in pairwise(homes))


def _homes(lab: Lab, network: str, since: int) -> Iterator[str]:
    """The MAC addresses that gratuitous ARPs (RFC 5227) gave for the first virtual address."""
    virtual = {a.ip for a in lab.plan.networks[network].virtual}
    for record in pcap.read(lab.capture(network), since):
        frame = record.frame
        if frame[12:14] != ARP.to_bytes(2) or len(frame) < 42 or frame[28:32] != frame[38:42]:
            continue
        if ip_address(frame[28:32]) in virtual:
            yield frame[22:28].hex(":")
