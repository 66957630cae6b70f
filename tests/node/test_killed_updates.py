"""Updates that die at any moment: the real systemd-sysupdate and gpg, and a disk with two slots.

What the disk's own cache loses with the power is not lost here: that is for virtual machines.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import resources
from appliance.image import keys as image_keys
from appliance.image.keys import Keys
from appliance.node.images import ROOT_TYPE, VERITY_TYPE
from appliance.run import run
from appliance.tools import ToolsTree
from tests.node.updates import Update, update

CLONE = Path(__file__).parents[2]
MIB = 1 << 20
KILLS = 8
LONGEST = 2.5  # seconds: a little more than an update takes here

LAYOUT = f"""\
label: gpt
size=8M, type={ROOT_TYPE}, name=root_1
size=2M, type={VERITY_TYPE}, name=verity_1
size=8M, type={ROOT_TYPE}, name=_empty
size=2M, type={VERITY_TYPE}, name=_empty
"""

# systemd's keyring and the image's os-release(5), for this process and its children alone.
ON_NODE = """
mount -t tmpfs tmpfs /etc/systemd
cp "$0/keyring" /etc/systemd/import-pubring.gpg
mount --bind "$0/os-release" "$(readlink -f /etc/os-release)"
exec "$@"
"""


class Router:
    """A disk of which version 1 runs, and the command that updates it."""

    def __init__(self, folder: Path, tools: ToolsTree, keys: Keys, disk: str) -> None:
        self.folder, self.tools, self.disk = folder, tools, disk
        self.kernels = folder / "esp/EFI/Linux"
        self.kernels.mkdir(parents=True)
        (self.kernels / "testcase_1.efi").write_bytes(b"kernel 1" * 1000)
        shutil.copy(keys.payload_keyring, folder / "keyring")
        (folder / "os-release").write_text('ID=debian\nIMAGE_ID="testcase"\nIMAGE_VERSION="1"\n')
        self._definitions()
        self.first = {number: self.content(number) for number in (1, 2)}

    def _definitions(self) -> None:
        """The image's own, on this disk."""
        there = self.folder / "definitions"
        there.mkdir()
        for path in (resources.data("overlays") / "common/usr/lib/sysupdate.d").iterdir():
            text = path.read_text().replace("/var/lib/appliance/update", f"{self.folder}/staging")
            text = text.replace("Path=auto", f"Path={self.disk}").replace(
                "Path=/EFI/Linux\nPathRelativeTo=boot", f"Path={self.kernels}"
            )
            (there / path.name).write_text(text)
        script = self.folder / "sysupdate"
        program = "/usr/lib/systemd/systemd-sysupdate"
        script.write_text(f'#!/bin/sh\nexec {program} --definitions={there} "$@"\n')
        script.chmod(0o755)

    def take(self, sent: Update) -> subprocess.Popen[bytes]:
        """Begin an update; the process is the first of a group of its own."""
        program = ["python3", CLONE / "tests/node/updating.py", CLONE, self.folder]
        argv = self.tools.inside(["sh", "-euc", ON_NODE, self.folder, *program])
        with (self.folder / "sent.tar").open("wb") as tar:
            tar.write(sent.tar().getvalue())
        with (self.folder / "sent.tar").open("rb") as tar, (self.folder / "log").open("wb") as log:
            return subprocess.Popen(argv, stdin=tar, stdout=log, stderr=log, start_new_session=True)

    def labels(self) -> list[str]:
        told = json.loads(run(self.tools.inside(["sfdisk", "--json", self.disk])).stdout)
        return [each["name"] for each in told["partitiontable"]["partitions"]]

    def content(self, number: int) -> bytes:
        told = json.loads(run(self.tools.inside(["sfdisk", "--json", self.disk])).stdout)
        part = told["partitiontable"]["partitions"][number - 1]
        with open(self.disk, "rb") as disk:
            disk.seek(part["start"] * 512)
            return disk.read(part["size"] * 512)

    def what_is_wrong(self, sent: Update) -> Iterator[str]:
        """What would keep the next boot from something whole: the loader takes any kernel."""
        if self.labels()[:2] != ["root_1", "verity_1"]:
            yield "the running slot has lost its name"
        for number, content in self.first.items():
            if self.content(number) != content:
                yield f"partition {number} is not what runs any more"
        names = {path.name for path in self.kernels.iterdir() if not path.name.startswith(".")}
        if "testcase_1.efi" not in names:
            yield "the kernel that runs is gone"
        for name in names - {"testcase_1.efi"}:
            yield from self._not_whole(name, sent)

    def _not_whole(self, name: str, sent: Update) -> Iterator[str]:
        if (self.kernels / name).read_bytes() != sent.of("efi").read_bytes():
            yield f"{name} is not what was sent"
        if self.labels()[2:] != ["root_2", "verity_2"]:
            yield f"{name} has no slot: {self.labels()}"
        for number, part in ((3, "root"), (4, "verity")):
            if not self.content(number).startswith(sent.of(part).read_bytes()):
                yield f"{part} of {name} is not what was sent"


@pytest.fixture(scope="module")
def keys(tools: ToolsTree, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return image_keys.generate(tmp_path_factory.mktemp("keys") / "mine", tools)


@pytest.fixture
def node(tools: ToolsTree, keys: Keys, tmp_path: Path) -> Iterator[Router]:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(32 * MIB)
    run(tools.inside(["sfdisk", "--quiet", disk]), stdin=LAYOUT)
    attach = ["losetup", "--find", "--show", "--partscan", disk]
    device = run(tools.inside(attach)).stdout.strip()
    with open(device, "r+b") as file:
        file.seek(MIB)
        file.write(os.urandom(10 * MIB))  # what runs fills its slot
    yield Router(tmp_path, tools, keys, device)
    run(tools.inside(["losetup", "--detach", device]))


@pytest.fixture
def sent(keys: Keys, tools: ToolsTree, tmp_path: Path) -> Update:
    """With a root that takes systemd-sysupdate a while."""
    return update(tmp_path / "sent", keys, tools, content=os.urandom(6 * MIB))


def test_an_update_is_written_to_the_other_slot(node: Router, sent: Update) -> None:
    assert node.take(sent).wait() == 0, (node.folder / "log").read_text()
    assert sorted(path.name for path in node.kernels.iterdir()) == [
        "testcase_1.efi",
        "testcase_2+3-0.efi",
    ]
    assert list(node.what_is_wrong(sent)) == []


def test_killed_at_any_moment_what_boots_is_whole(node: Router, sent: Update) -> None:
    moments = random.Random(2026)
    for _ in range(KILLS):
        program = node.take(sent)
        threading.Event().wait(moments.uniform(0, LONGEST))
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()
        assert list(node.what_is_wrong(sent)) == []
    assert node.take(sent).wait() == 0, (node.folder / "log").read_text()
    assert list(node.what_is_wrong(sent)) == []
    assert "testcase_2+3-0.efi" in {path.name for path in node.kernels.iterdir()}


def test_what_a_dead_update_left_in_the_slot_is_not_taken_for_another_one(
    node: Router, sent: Update, keys: Keys, tools: ToolsTree, tmp_path: Path
) -> None:
    """The same version, built anew: systemd-sysupdate by itself would add its kernel alone."""
    assert node.take(sent).wait() == 0
    (node.kernels / "testcase_2+3-0.efi").unlink()
    other = update(tmp_path / "other", keys, tools, content=os.urandom(6 * MIB))
    assert node.take(other).wait() == 0, (node.folder / "log").read_text()
    assert list(node.what_is_wrong(other)) == []
    assert list(node.what_is_wrong(sent)) != []
