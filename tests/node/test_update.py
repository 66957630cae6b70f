"""appliance-update on a node made of files: what it writes, in which order, and what it refuses."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.image import keys as image_keys
from appliance.image.compose import TRIES
from appliance.image.disk import ROOT_SLOT, VERITY_SLOT
from appliance.image.keys import Keys
from appliance.node import busy, images, payload, statefile
from appliance.node import update as command
from appliance.node.identity import Identity
from appliance.node.images import Boot
from appliance.node.refused import RefusedError
from appliance.node.update import Node
from appliance.tools import ToolsTree
from tests.node import updates
from tests.node.updates import Update, gpg, update

CLONE = Path(__file__).parents[2]
MIB = 1 << 20
RUNNING = "11111111-1111-1111-1111-111111111111"
OTHER = "0" * 64  # the hash of a root that no update here has

# What systemd-sysupdate does, as far as the order of things matters; all of it goes to a log.
SYSUPDATE = """#!/bin/sh
echo "sysupdate $* with $(ls ESP)" >>LOG
case "$*" in
  *vacuum) ;;
  "update "*) cp STAGING/testcase_$2.efi "ESP/testcase_$2+3-0.efi" ;;
esac
"""
SAYS = """#!/bin/sh
echo "$(basename "$0") $*" >>LOG
case "$(basename "$0") $*" in
  lsblk*) cat TOLD/lsblk ;;
  bless*) cat TOLD/boot ;;
esac
"""


def partition(number: int, kind: str, uuid: str, size: int) -> dict[str, Any]:
    path = f"/nowhere/vda{number}"
    return {"partn": number, "parttype": kind, "partuuid": uuid, "size": size, "path": path}


DISK = [
    {"partn": None, "parttype": None, "partuuid": None, "size": 4096 * MIB, "path": "/nowhere/vda"},
    partition(2, images.ROOT_TYPE, RUNNING, ROOT_SLOT),
    partition(3, images.VERITY_TYPE, "ffffffff-ffff-ffff-ffff-ffffffffffff", VERITY_SLOT),
    partition(4, images.ROOT_TYPE, "22222222-2222-2222-2222-222222222222", 2 * MIB),
    partition(5, images.VERITY_TYPE, "33333333-3333-3333-3333-333333333333", 1 * MIB),
]


@pytest.fixture(scope="module")
def keys(tools: ToolsTree, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return image_keys.generate(tmp_path_factory.mktemp("keys") / "mine", tools)


class Machine:
    """The programs of a node, which answer from files and write down what they are asked."""

    def __init__(self, folder: Path, tools: ToolsTree, keys: Keys) -> None:
        self.told, self.log = folder / "told", folder / "log"
        self.esp = folder / "esp"
        self.kernels = self.esp / "EFI/Linux"
        self.bin = gpg(folder / "bin", tools)
        for each in (self.told, self.kernels, folder / "run"):
            each.mkdir(parents=True)
        self.log.touch()
        self.node = Node(
            Identity("fw1", "testcase", "d" * 64, "1"),
            "vm",
            folder / "run/state.json",
            esp=self.esp,
            staging=folder / "staging",
            keyring=keys.payload_keyring,
            busy=folder / "run/busy",
            last_trial=folder / "last-trial.json",
            cmdline=f"quiet systemd.verity_root_data=PARTUUID={RUNNING} roothash={OTHER} panic=10",
        )
        self.say("lsblk", json.dumps({"blockdevices": DISK}))
        self.say("boot", Boot.CLEAN)
        self.kernel("testcase_1.efi")
        self.state("BACKUP")
        self._programs()

    def _programs(self) -> None:
        names = {"LOG": self.log, "TOLD": self.told, "ESP": self.kernels}
        names |= {"STAGING": self.node.staging}
        scripts = {"sysupdate": SYSUPDATE}
        scripts |= dict.fromkeys(("bless", "bootctl", "lsblk", "systemctl"), SAYS)
        for name, text in scripts.items():
            for word, path in names.items():
                text = text.replace(word, str(path))  # noqa: PLW2901
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)

    def say(self, what: str, text: str) -> None:
        (self.told / what).write_text(text)

    def kernel(self, name: str) -> Path:
        path = self.kernels / name
        path.write_bytes(name.encode() * 100)
        return path

    def state(self, mine: str, **peer: Any) -> None:
        """What the agent says: the peer is active, is heard, and will be for a while."""
        told = {"node": "fw2", "role": "MASTER", "busy": "", "heard": time.monotonic() + 600}
        statefile.write(self.node.state, {"role": mine, "peer": told | peer})

    def asked(self, program: str) -> list[str]:
        lines = self.log.read_text().splitlines()
        return [line for line in lines if line.startswith(program)]

    def take(self, stream: io.BytesIO, **how: bool) -> str:
        given = {"allow_older": False, "dry_run": False, "forced": False} | how
        return command.take(self.node, payload.sent(stream), **given).version


@pytest.fixture
def machine(
    tools: ToolsTree, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Machine:
    made = Machine(tmp_path, tools, keys)
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    monkeypatch.setattr(images, "_BLESS", str(made.bin / "bless"))
    monkeypatch.setattr(command, "_SYSUPDATE", str(made.bin / "sysupdate"))
    return made


@pytest.fixture
def make(keys: Keys, tools: ToolsTree, tmp_path: Path) -> Callable[..., Update]:
    """A signed update, for version 2 unless told otherwise."""
    return lambda **changed: update(tmp_path / "sent", keys, tools, **changed)


@pytest.fixture
def sent(make: Callable[..., Update]) -> Update:
    return make()


def listed(machine: Machine) -> list[str]:
    return sorted(path.name for path in machine.kernels.iterdir())


# take


def test_an_update_is_written_beside_what_runs(machine: Machine, sent: Update) -> None:
    assert machine.take(sent.tar()) == "2"
    assert listed(machine) == ["testcase_1.efi", "testcase_2+3-0.efi"]
    assert not list(machine.node.staging.iterdir())
    assert busy.read(machine.node.busy) == ""


def test_the_other_kernel_goes_before_its_slot_and_the_new_one_comes_last(
    machine: Machine, sent: Update
) -> None:
    machine.kernel("testcase_0.efi")
    machine.kernel(".#sysupdatetestcase_9+3-0.efi1234")
    lost = machine.esp / "FSCK0000.REC"
    lost.write_text("a part of a kernel")
    machine.take(sent.tar())
    assert not lost.exists()
    assert machine.asked("sysupdate") == [
        "sysupdate --instances-max=1 vacuum with testcase_1.efi",
        "sysupdate update 2 with testcase_1.efi",
    ]


def test_an_image_that_was_not_tried_yet_is_withdrawn(machine: Machine, sent: Update) -> None:
    machine.kernel("testcase_1.5+3-0.efi")
    machine.take(sent.tar())
    assert listed(machine) == ["testcase_1.efi", "testcase_2+3-0.efi"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"site": "other"}, "wrong site: it is for other, this node is of testcase"),
        ({"hardware": "metal"}, "wrong hardware: it is for metal, this node has an image for vm"),
        ({"version": "1"}, "version 1 runs already"),
        ({"version": "0.9"}, "older: it is version 0.9, 1 runs"),
        ({"root": 2 * MIB + 1}, "too big: its root has 2097153 bytes, the slot 2097152"),
        ({"verity": 2 * MIB}, "too big: its hash tree has 2097152 bytes, the slot 1048576"),
        ({"files": {"testcase_2.efi": 1 << 50}}, "the disk is full"),
        ({"files": {"testcase_2.root.raw": 1 << 50}}, "the disk is full"),
    ],
)
def test_what_is_refused_and_changes_nothing(
    machine: Machine,
    make: Callable[..., Update],
    changed: dict[str, Any],
    words: str,
) -> None:
    machine.kernel("testcase_0.efi")
    sent = make(**changed)
    for dry_run in (True, False):
        with pytest.raises(RefusedError, match=words):
            machine.take(sent.tar(), dry_run=dry_run)
    assert listed(machine) == ["testcase_0.efi", "testcase_1.efi"]
    assert not machine.asked("sysupdate")
    assert not list(machine.node.staging.iterdir())
    assert busy.read(machine.node.busy) == ""


@pytest.fixture
def same_root(machine: Machine, sent: Update, tmp_path: Path) -> dict[str, Path]:
    """The machine runs the root that the update has: partitions, longer than what is in them."""
    parts = {part: tmp_path / f"running-{part}" for part in ("root", "verity")}
    for part, path in parts.items():
        path.write_bytes(sent.of(part).read_bytes() + bytes(5000))
    disk = [dict(each) for each in DISK]
    disk[1]["path"], disk[2]["path"] = map(str, parts.values())
    machine.say("lsblk", json.dumps({"blockdevices": disk}))
    machine.node = replace(
        machine.node, cmdline=machine.node.cmdline.replace(OTHER, updates.ROOT_HASH)
    )
    return parts


def kernel_alone(sent: Update) -> io.BytesIO:
    return sent.tar([*payload.FIRST, sent.of("efi").name])


def test_the_root_that_runs_has_not_to_be_sent(
    machine: Machine,
    sent: Update,
    same_root: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    staged: dict[str, bytes] = {}

    def install(node: Node, described: payload.Description, folder: Path) -> None:
        staged.update({each.name: each.read_bytes() for each in folder.iterdir()})

    monkeypatch.setattr(command, "_install", install)
    assert command.tell(machine.node)["root_hash"] == updates.ROOT_HASH
    for stream in (kernel_alone(sent), sent.tar()):
        machine.take(stream)
        assert staged == {each.name: each.read_bytes() for each in sent.folder.iterdir()}
        staged.clear()


def test_the_root_that_runs_is_not_what_it_should_be(
    machine: Machine, sent: Update, same_root: dict[str, Path]
) -> None:
    same_root["root"].write_bytes(bytes(1 << 20))
    with pytest.raises(RefusedError, match=r"^altered: testcase_2\.root\S+ is not what was signed"):
        machine.take(kernel_alone(sent))
    assert listed(machine) == ["testcase_1.efi"]


def test_another_root_has_to_be_sent(machine: Machine, sent: Update) -> None:
    with pytest.raises(RefusedError, match=r"^truncated: testcase_2\.root\S+, testcase_2\.verity"):
        machine.take(kernel_alone(sent))


def test_altered_on_its_way_it_changes_nothing(machine: Machine, sent: Update) -> None:
    sent.of("verity").write_bytes(sent.of("verity").read_bytes()[::-1])
    with pytest.raises(RefusedError, match="altered"):
        machine.take(sent.tar())
    assert listed(machine) == ["testcase_1.efi"]
    assert not machine.asked("sysupdate")
    assert not list(machine.node.staging.iterdir())


def test_an_older_one_is_taken_when_that_is_wanted(
    machine: Machine, make: Callable[..., Update]
) -> None:
    sent = make(version="0.9")
    assert machine.take(sent.tar(), allow_older=True) == "0.9"
    assert command.try_it(machine.node, forced=False) == "0.9"
    assert machine.asked("bootctl")[-1] == "bootctl set-oneshot testcase_0.9.efi"


def test_a_dry_run_needs_no_more_than_the_first_files(machine: Machine, sent: Update) -> None:
    assert machine.take(sent.tar(payload.FIRST), dry_run=True) == "2"
    assert listed(machine) == ["testcase_1.efi"]


@pytest.mark.parametrize("now", [Boot.INDETERMINATE, Boot.DIRTY, Boot.BAD])
def test_without_a_good_image_to_go_back_to(machine: Machine, sent: Update, now: Boot) -> None:
    machine.say("boot", now)
    with pytest.raises(RefusedError, match="not known to be good"):
        machine.take(sent.tar())


def test_a_slot_that_was_not_filled_is_found_out(
    machine: Machine, sent: Update, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine.bin / "sysupdate").write_text("#!/bin/sh\necho no room >&2; exit 1\n")
    with pytest.raises(RefusedError, match="systemd-sysupdate vacuum failed: no room"):
        machine.take(sent.tar())
    (machine.bin / "sysupdate").write_text("#!/bin/sh\n")
    with pytest.raises(RefusedError, match="not on the boot partition as it was sent"):
        machine.take(sent.tar())
    assert listed(machine) == ["testcase_1.efi"]


def test_other_virtual_addresses(machine: Machine, make: Callable[..., Update]) -> None:
    sent = make(virtual=["192.168.0.101"])
    for dry_run in (True, False):
        with pytest.raises(RefusedError, match="other virtual addresses"):
            machine.take(sent.tar(), dry_run=dry_run)
    assert machine.take(sent.tar(), forced=True) == "2"


# One at a time


def test_one_update_on_a_node(machine: Machine, sent: Update) -> None:
    with (
        busy.alone_at_it(machine.node.busy),
        pytest.raises(RefusedError, match="another update is under way on this node"),
    ):
        machine.take(sent.tar())
    assert machine.take(sent.tar()) == "2"


@pytest.mark.parametrize("at", [busy.UPDATE, busy.TRIAL])
def test_one_update_in_a_pair(machine: Machine, sent: Update, at: str) -> None:
    machine.state("BACKUP", busy=at)
    with pytest.raises(RefusedError, match=f"fw2 is at {at}: one node at a time"):
        machine.take(sent.tar())
    assert busy.read(machine.node.busy) == ""


def test_a_peer_that_is_not_heard(
    machine: Machine, sent: Update, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(busy, "_HEARD_WITHIN_S", 0.3)
    statefile.write(machine.node.state, {"role": "MASTER", "peer": None})
    with pytest.raises(RefusedError, match="the peer is not heard"):
        machine.take(sent.tar())
    assert machine.take(sent.tar(), forced=True) == "2"


def test_the_peer_is_told_first_and_asked_then(machine: Machine) -> None:
    """A word of the peer that was under way already does not count."""
    machine.state("BACKUP", heard=time.monotonic() + 0.05)
    seen: list[str] = []

    def answer() -> None:
        while not (told := busy.read(machine.node.busy)):
            time.sleep(0.01)  # poll
        seen.append(told)
        machine.state("BACKUP", busy=busy.UPDATE)

    agent = threading.Thread(target=answer)
    agent.start()
    with (
        pytest.raises(RefusedError, match="one node at a time"),
        busy.told(busy.UPDATE, machine.node.state, machine.node.busy),
    ):
        pass
    agent.join()
    assert seen == [busy.UPDATE]


# try, back, withdraw


def test_a_trial_is_a_reboot(machine: Machine) -> None:
    machine.kernel("testcase_2+3-0.efi")
    assert command.try_it(machine.node, forced=False) == "2"
    assert machine.asked("bootctl") == ["bootctl set-default "]
    assert busy.read(machine.node.busy) == busy.TRIAL, "until it is gone"
    assert machine.asked("systemctl") == ["systemctl reboot --no-block"]


@pytest.mark.parametrize("names", [(), ("testcase_2+0-3.efi",), ("testcase_0.efi",)])
def test_nothing_to_be_tried(machine: Machine, names: tuple[str, ...]) -> None:
    for name in names:
        machine.kernel(name)
    with pytest.raises(RefusedError, match="no image to be tried"):
        command.try_it(machine.node, forced=False)
    assert not machine.asked("systemctl")


@pytest.mark.parametrize("verb", [command.try_it, command.back])
def test_the_active_node_does_not_leave(machine: Machine, verb: Any) -> None:
    machine.kernel("testcase_2+3-0.efi")
    machine.kernel("testcase_0.efi")
    machine.state("MASTER", role="BACKUP")
    with pytest.raises(RefusedError, match="hand over first"):
        verb(machine.node, forced=False)
    machine.state("BACKUP", role="FAULT")
    with pytest.raises(RefusedError, match="hand over first"):
        verb(machine.node, forced=False)
    assert not machine.asked("systemctl")
    verb(machine.node, forced=True)
    verb(replace(machine.node, state=None), forced=False)
    assert len(machine.asked("systemctl")) == 2


def test_back_to_the_image_before(machine: Machine) -> None:
    machine.kernel("testcase_0.efi")
    assert command.back(machine.node, forced=False) == "0"
    assert listed(machine) == ["testcase_0.efi", "testcase_1+0.efi"]
    assert machine.asked("systemctl") == ["systemctl reboot --no-block"]


@pytest.mark.parametrize("name", ["testcase_2+3-0.efi", "testcase_2+0-1.efi"])
def test_back_only_to_what_was_good(machine: Machine, name: str) -> None:
    machine.kernel(name)
    with pytest.raises(RefusedError, match="no other image that was good"):
        command.back(machine.node, forced=False)
    assert listed(machine) == ["testcase_1.efi", name]


def test_withdrawn_before_it_is_tried(machine: Machine) -> None:
    machine.kernel("testcase_2+3-0.efi")
    assert command.withdraw(machine.node) == "2"
    assert listed(machine) == ["testcase_1.efi"]
    machine.kernel("testcase_0.efi")
    assert command.withdraw(machine.node) is None
    assert listed(machine) == ["testcase_0.efi", "testcase_1.efi"]


# Telling


def test_what_it_tells(machine: Machine) -> None:
    other = machine.kernel("testcase_2+2-1.efi")
    machine.kernel("another_9.efi")
    told = command.tell(machine.node)
    assert (told["node"], told["version"], told["boot"], told["role"]) == (
        *("fw1", "1"),
        *(Boot.CLEAN, "BACKUP"),
    )
    assert told["other"]["version"] == "2"
    assert told["other"]["left"] == 2
    assert told["other"]["sha256"] == image_sha(other)
    assert told["last_trial"] is None


def image_sha(path: Path) -> str:
    return images.Image(path, "", None).sha256()


def test_the_running_slot_is_the_one_in_the_kernels_arguments(machine: Machine) -> None:
    a, b = images.slots(machine.node.cmdline)
    assert (a.name, a.running, a.root, a.verity) == ("a", True, ROOT_SLOT, VERITY_SLOT)
    assert (b.name, b.running, b.root, b.verity) == ("b", False, 2 * MIB, MIB)


def test_the_loader_tries_an_update_as_often_as_a_new_disk() -> None:
    text = (CLONE / "overlays/common/usr/lib/sysupdate.d/30-kernel.transfer").read_text()
    assert f"TriesLeft={TRIES}\n" in text


def test_systemd_looks_where_the_command_puts_the_payload() -> None:
    for path in (CLONE / "overlays/common/usr/lib/sysupdate.d").iterdir():
        assert f"Path=file://{command.STAGING}\n" in path.read_text()


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """The build machine's disks have their own time."""
    monkeypatch.setattr(images.os, "sync", lambda: None)
