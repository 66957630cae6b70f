"""Secure Boot with the operator's own keys: what he signed boots, and nothing else does."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance import tools
from appliance.image import build as compose
from appliance.image import keys as image_keys
from appliance.image.disk import MIB
from appliance.lab import qemu
from appliance.lab.machine import Machine
from appliance.render.site import render
from appliance.run import run
from appliance.site import load
from vmtests.metal import standing
from vmtests.observe import until
from vmtests.wanted import Wanted

SITE = Wanted("""\
site: secured
nodes: {fw1: {}}
networks:
  inside: {interface: enp0s3, addresses: {fw1: 192.168.0.1/24}}
firewall: {rules: []}
""")
OWNER = "9f0a2b8e-4a0f-4a4c-9c55-7d0b1e6a6f11"
SECURE = "od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
KERNEL = "EFI/Linux/secured_1+3.efi"
BOOT_WITHIN = 240  # seconds, on a slow machine
REFUSED_WITHIN = 120  # seconds until firmware or loader has said no

PowerOn = Callable[[Path], Machine]


@pytest.fixture(scope="module")
def signed(build: Callable[[Wanted], Path]) -> Path:
    """The image as a user builds it with his keys."""
    return build(SITE) / "secured_1.raw"


@pytest.fixture(scope="module")
def firmware(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> qemu.Firmware:
    """One in which the operator's certificate is enrolled, and no other."""
    folder = tmp_path_factory.mktemp("variables")
    empty, enrolled = folder / "empty.fd", folder / "enrolled.fd"
    run(tools.ensure().inside(["cp", qemu.USUAL_FIRMWARE.variables, empty]))
    certificate = str(image_keys.load(keys).boot_certificate)
    enrol = [(to, OWNER, certificate) for to in ("--set-pk", "--add-kek", "--add-db")]
    program = str(Path(sys.executable).with_name("virt-fw-vars"))
    words = [word for each in enrol for word in each]
    run([program, "-i", str(empty), "-o", str(enrolled), *words, "--secure-boot"])
    return qemu.secure_firmware(enrolled)


@pytest.fixture
def power_on(signed: Path, firmware: qemu.Firmware) -> Iterator[PowerOn]:
    """A machine with that firmware, and an image as its disk; it is off in the end."""
    with standing(load(signed.parent.with_suffix(".yaml")), "fw1") as metal:
        started: list[Machine] = []

        def power_on(raw: Path) -> Machine:
            told = {"appliance.node": "fw1"}
            started.append(machine := metal.machine("fw1", raw, told=told, firmware=firmware))
            machine.start(fresh_disk=True)
            return machine

        yield power_on
        for machine in started:
            machine.close()


def says(machine: Machine) -> str:
    """What is on its console."""
    log = machine.config.serial_log
    return log.read_text(errors="replace") if log.exists() else ""


def test_what_the_operator_has_signed_boots(power_on: PowerOn, signed: Path) -> None:
    node = power_on(signed)
    node.wait_control(BOOT_WITHIN)
    assert node.succeed(SECURE).strip() == "1"
    until(lambda: "appliance: healthy, fw1 of secured" in says(node), BOOT_WITHIN, "health")


def test_what_nobody_has_signed_does_not_boot(
    power_on: PowerOn, signed: Path, tmp_path: Path
) -> None:
    plan = load(signed.parent.with_suffix(".yaml"))
    unsigned = compose(plan, render(plan), tmp_path / "unsigned")
    refused(power_on(unsigned.raw), "Access Denied")


def test_a_kernel_that_was_altered_does_not_boot(
    power_on: PowerOn, signed: Path, tmp_path: Path
) -> None:
    """One bit, in the site that it carries: the loader is as it was signed."""
    raw = Path(shutil.copy(signed, tmp_path / "altered.raw"))
    kernel, inside = tmp_path / "kernel.efi", ["-i", f"{raw}@@{MIB}"]
    kit = tools.ensure()
    run(kit.inside(["mcopy", *inside, f"::/{KERNEL}", kernel]))
    data = bytearray(kernel.read_bytes())
    data[data.index(b"192.168.0.1/24")] ^= 1
    kernel.write_bytes(data)
    run(kit.inside(["mcopy", "-o", *inside, kernel, f"::/{KERNEL}"]))
    refused(power_on(raw), "Access denied")


def refused(machine: Machine, words: str) -> None:
    """Firmware or loader says no, and nothing of the image ever runs."""
    until(lambda: words.lower() in says(machine).lower(), REFUSED_WITHIN, words)
    assert "appliance:" not in says(machine)
