"""KVM is used only where a guest has proven it; QEMU is faked here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance.lab import kvm
from appliance.lab.qemu import Accelerator
from appliance.run import Argument

WORKS = """
for word; do case $word in file:*) log=${word#file:};; esac; done
[ "$1" = --version ] && exec echo version 10
echo once >>$0.runs
echo 'Kernel panic - not syncing: VFS: Unable to mount root fs' >"$log"
"""
HANGS = """
[ "$1" = --version ] && exec echo version 10
echo once >>$0.runs
exec sleep 1000
"""
DIES = """
[ "$1" = --version ] && exec echo version 10
echo once >>$0.runs
exit 1
"""


class Fake:
    """A tools tree whose QEMU is a script."""

    def __init__(self, folder: Path, script: str) -> None:
        self.qemu = folder / "qemu"
        self.qemu.write_text(f"#!/bin/sh\n{script}")
        self.qemu.chmod(0o755)

    def inside(self, argv: Sequence[Argument]) -> list[str]:
        return [str(self.qemu) if word == kvm.PROGRAM else str(word) for word in argv]

    @property
    def runs(self) -> int:
        path = self.qemu.with_name("qemu.runs")
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture(autouse=True)
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(kvm, "DEVICE", device)
    monkeypatch.setenv("APPLIANCE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("script", "answer"),
    [(WORKS, Accelerator.KVM), (HANGS, Accelerator.TCG), (DIES, Accelerator.TCG)],
    ids=["works", "hangs", "dies"],
)
def test_the_proof_decides_and_is_asked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, answer: Accelerator
) -> None:
    monkeypatch.setattr(kvm, "WITHIN", 2.0)
    fake = Fake(tmp_path, script)
    assert kvm.accelerator(fake, Path("/kernel")) is answer
    assert kvm.accelerator(fake, Path("/kernel")) is answer
    assert fake.runs == 1


def test_without_the_device_nothing_is_tried(tmp_path: Path) -> None:
    kvm.DEVICE.unlink()
    fake = Fake(tmp_path, WORKS)
    assert kvm.accelerator(fake, Path("/kernel")) is Accelerator.TCG
    assert fake.runs == 0
