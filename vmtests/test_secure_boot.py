"""Secure Boot with the operator's own keys: what he signed boots, and nothing else does."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance import tools
from appliance.image import Built, build
from appliance.image import keys as image_keys
from appliance.image.disk import MIB
from appliance.image.keys import Keys
from appliance.image.peers import peers_image
from appliance.lab import qemu
from appliance.lab.pair import Lab
from appliance.plan.model import Plan
from appliance.render.site import render
from appliance.run import run
from appliance.site import load
from vmtests.observe import until

SITE = """\
site: secured
nodes: {fw1: {}}
networks:
  inside: {interface: enp0s3, addresses: {fw1: 192.168.0.1/24}}
firewall: {rules: []}
"""
OWNER = "9f0a2b8e-4a0f-4a4c-9c55-7d0b1e6a6f11"
SECURE = "od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
KERNEL = "EFI/Linux/secured_1+3.efi"
BOOT_WITHIN = 240  # seconds, on a slow machine
REFUSED_WITHIN = 120  # seconds until firmware or loader has said no


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    site = tmp_path_factory.mktemp("site") / "secured.yaml"
    site.write_text(SITE)
    return load(site)


@pytest.fixture(scope="module")
def mine(keys: Path) -> Keys:
    return image_keys.load(keys)


@pytest.fixture(scope="module")
def variables(mine: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the firmware remembers once the operator's certificate is enrolled, and no other."""
    kit, folder = tools.ensure(), tmp_path_factory.mktemp("variables")
    empty, enrolled = folder / "empty.fd", folder / "enrolled.fd"
    run(kit.inside(["cp", qemu.FIRMWARE_VARIABLES, empty]))
    program = str(Path(sys.executable).with_name("virt-fw-vars"))
    enrol = [word for to in ("--set-pk", "--add-kek", "--add-db") for word in _owned(to, mine)]
    subprocess.run([program, "-i", empty, "-o", enrolled, *enrol, "--secure-boot"], check=True)
    return enrolled


def _owned(option: str, mine: Keys) -> tuple[str, str, str]:
    return option, OWNER, str(mine.boot_certificate)


@pytest.fixture(scope="module")
def signed(plan: Plan, mine: Keys, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(plan, render(plan), tmp_path_factory.mktemp("signed"), keys=mine)


@pytest.fixture
def power_on(plan: Plan, variables: Path, tmp_path: Path) -> Callable[[Path], Lab]:
    """A machine with that firmware, and an image as its disk."""

    @contextmanager
    def power_on(raw: Path) -> Iterator[Lab]:
        way = {"image": raw, "peers": peers_image(), "workdir": tmp_path / "lab"}
        with Lab(plan, **way, variables=variables) as lab:
            yield lab

    return power_on


def says(lab: Lab) -> str:
    return (lab.workdir / "fw1.serial.log").read_text(errors="replace")


def test_what_the_operator_has_signed_boots(power_on, signed: Built) -> None:
    with power_on(signed.raw) as lab:
        node = lab.nodes["fw1"]
        node.wait_control(BOOT_WITHIN)
        assert node.succeed(SECURE).strip() == "1"
        until(lambda: "appliance: healthy, fw1 of secured" in says(lab), BOOT_WITHIN, "health")


def test_what_nobody_has_signed_does_not_boot(power_on, plan: Plan, tmp_path: Path) -> None:
    unsigned = build(plan, render(plan), tmp_path / "unsigned")
    refused(power_on, unsigned.raw, "Access Denied")


def test_a_kernel_that_was_altered_does_not_boot(power_on, signed: Built, tmp_path: Path) -> None:
    """One bit, in the site that it carries: the loader is as it was signed."""
    raw = Path(shutil.copy(signed.raw, tmp_path / "altered.raw"))
    kernel, inside = tmp_path / "kernel.efi", ["-i", f"{raw}@@{MIB}"]
    kit = tools.ensure()
    run(kit.inside(["mcopy", *inside, f"::/{KERNEL}", kernel]))
    data = bytearray(kernel.read_bytes())
    data[data.index(b"192.168.0.1/24")] ^= 1
    kernel.write_bytes(data)
    run(kit.inside(["mcopy", "-o", *inside, kernel, f"::/{KERNEL}"]))
    refused(power_on, raw, "Access denied")


def refused(power_on: Callable[[Path], Lab], raw: Path, words: str) -> None:
    with power_on(raw) as lab:
        until(lambda: words.lower() in says(lab).lower(), REFUSED_WITHIN, words)
        assert "appliance:" not in says(lab)
