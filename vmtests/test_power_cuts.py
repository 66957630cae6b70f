"""Whenever the power is cut while a pair is upgraded: the node boots, and the pair carries traffic.

Once with a pair under traffic, either node of which loses its power; and, many times as often, with
the disk of an upgrade, as it would be found after a cut that loses what its cache held as well.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfile

import pytest

from appliance.lab import qemu, writes
from appliance.lab.machine import Machine
from appliance.lab.node import Appliance
from appliance.lab.pair import Lab
from appliance.node.images import Boot
from appliance.run import run
from appliance.tools import ensure
from vmtests.metal import standing
from vmtests.observe import moves, typing, until
from vmtests.operator import Operator
from vmtests.updates import Payloads, images, version

pytestmark = pytest.mark.long

DECIDED = (Boot.CLEAN, Boot.GOOD)
BACK_WITHIN = 300  # seconds from power on to a decided boot, on a slow machine
LIVE_CUTS = 20
LIVE_WITHIN = 130  # seconds after an upgrade of one node begins: all of its phases
CUTS = 100
AT_ONCE = 3  # a node alone waits for its peer, and leaves the processor to others
DAEMONS = ("keepalived", "conntrackd", "appliance-agent", "ssh")


@dataclass(frozen=True, slots=True)
class Upgraded:
    """A node's disk and firmware before it was upgraded, all that it wrote until the new version
    was found good, behind how many flushes the upgrade began, and the two versions.
    """

    node: Appliance
    disk: Path
    firmware: qemu.Firmware
    record: writes.Record
    begin: int
    versions: tuple[str, str]

    def leave(self, cut: writes.Cut, disk: Path) -> None:
        """Make the disk what it would be after a cut."""
        run(["cp", "--sparse=always", self.disk, disk])
        self.record.replay(cut, disk)


def test_a_disk_boots_whatever_a_cut_leaves_of_an_upgrade(
    pair: Lab, operator: Operator, payloads: Payloads, seed: int, tmp_path: Path
) -> None:
    upgraded = upgrade(pair, operator, payloads, tmp_path)
    for node in pair.nodes.values():
        node.kill()
    draw, names = random.Random(seed), [f"cut-{number}" for number in range(AT_ONCE)]
    cuts = [upgraded.record.cut(draw, upgraded.begin) for _ in range(CUTS)]
    with standing(pair.plan, *names) as metal, ThreadPoolExecutor(AT_ONCE) as pool:

        def some(number: int) -> list[str]:
            """What one machine runs after each of its share of the cuts."""
            disk = tmp_path / f"{names[number]}.raw"
            told = {"appliance.node": upgraded.node.name}
            ran = []
            firmware = upgraded.firmware
            with closing(metal.machine(names[number], disk, told=told, firmware=firmware)) as node:
                for cut in cuts[number::AT_ONCE]:
                    upgraded.leave(cut, disk)
                    print(f"{names[number]}: {len(cut.safe)} writes and {len(cut.left)} more")
                    ran.append(version_run_by(node, upgraded.node.name))
            return ran

        ran = [version for each in pool.map(some, range(AT_ONCE)) for version in each]
    counted = {version: ran.count(version) for version in upgraded.versions}
    print(f"started from {CUTS} disks: {counted}")
    assert all(counted.values())
    assert sum(counted.values()) == CUTS


def upgrade(pair: Lab, operator: Operator, payloads: Payloads, folder: Path) -> Upgraded:
    """Of the standby, whose writes are recorded until what it got is good."""
    node, disk, log = pair.standby(), folder / "before.raw", folder / "writes"
    payload, before = payloads.another(node), images(node)["version"]
    node.kill()
    with recording(node, log) as boot:
        run(ensure().inside(["qemu-img", "convert", "-O", "raw", boot.disk, disk]))
        variables = Path(copyfile(boot.variables, folder / "variables"))
        node.start()
        whole(pair)
        begin = len(recorded(node, log).intervals)
        operator.run("upgrade", str(payload), "--node", node.name, "--allow-older")
    record = recorded(node, log)
    firmware = replace(boot.firmware, variables=variables)
    return Upgraded(node, disk, firmware, record, begin, (before, version(payload)))


@contextmanager
def recording(node: Appliance, record: Path) -> Iterator[qemu.FirmwareBoot]:
    """From its next start on, until the one after."""
    usual = node.config
    assert isinstance(usual.boot, qemu.FirmwareBoot)
    node.config = replace(usual, boot=replace(usual.boot, writes=record))
    try:
        yield usual.boot
    finally:
        node.config = usual


def recorded(node: Appliance, record: Path) -> writes.Record:
    """All that it has written so far."""
    node.freeze()
    try:
        return writes.read(record)
    finally:
        node.thaw()


def version_run_by(machine: Machine, name: str) -> str:
    """What this machine starts, as the node of this name; its daemons run, and no unit failed."""
    machine.start(fresh_disk=True)
    machine.wait_control(BACK_WITHIN)
    for unit in DAEMONS:
        machine.wait_until(f"systemctl is-active {unit}", BACK_WITHIN)
    assert machine.succeed("hostname").strip() == name
    assert not machine.succeed("systemctl --failed --plain --no-legend")
    told = images(machine)
    machine.kill()
    return str(told["version"])


@pytest.fixture
def moments(seed: int) -> list[tuple[float, bool]]:
    """When the power is cut, in seconds, and whether that of the node that is upgraded."""
    drawn = random.Random(seed)
    return [(drawn.uniform(0, LIVE_WITHIN), drawn.random() < 0.75) for _ in range(LIVE_CUTS)]


def test_a_power_cut_at_any_moment_leaves_a_node_that_boots(
    pair: Lab, operator: Operator, payloads: Payloads, moments: list[tuple[float, bool]]
) -> None:
    """The operator's machine dies with the node, and whoever calls next goes on. The last of this
    pair's tests: its nodes end with images of two versions.
    """
    for after, own in moments:
        active, node = pair.active(), pair.standby()
        with typing(pair) as session:
            carried = cut(pair, operator, payloads.another(node), after, own=own)
            whole(pair)
            told = {each.name: images(each)["version"] for each in (active, node)}
            print(f"cut after {after:.1f} s: {(node if own else active).name} of {told}")
            if carried:
                moves(session)
                assert session.stop().survived
        with typing(pair) as another:
            moves(another)
    node = pair.standby()
    goal = payloads.another(pair.active())
    operator.run("upgrade", str(goal), "--node", node.name, "--allow-older")
    assert images(node)["version"] == version(goal)
    assert pair.standby() is node


def cut(pair: Lab, operator: Operator, payload: Path, after: float, *, own: bool) -> bool:
    """Begin an upgrade of the standby; after so many seconds the operator is gone, and its power or
    else that of the active one. Whether a router was there at every moment.
    """
    active, node = pair.active(), pair.standby()
    options = ("--node", node.name, "--allow-older")
    with operator.start("upgrade", str(payload), *options) as command:
        threading.Event().wait(after)
        victim, other = (node, active) if own else (active, node)
        there = own or other.trouble() is None
        victim.kill()
        command.kill()
    if there:
        pair.wait_active(other)
    victim.start()
    return there


def whole(pair: Lab) -> None:
    """Both nodes have booted, what they run was found good, and they are a pair."""
    pair.wait_ready(timeout=BACK_WITHIN)
    for node in pair.nodes.values():
        until(lambda node=node: images(node)["boot"] in DECIDED, BACK_WITHIN, "a decided boot")
