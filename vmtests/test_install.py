"""A real machine: no SMBIOS string, two disks, and a medium that installs by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.site import load
from vmtests.installed import Installed
from vmtests.metal import Metal, standing
from vmtests.observe import until
from vmtests.wanted import Wanted
from vmtests.ways import USUAL

WITHIN = 400.0  # seconds for a boot, on a machine that emulates and has other work
SERIAL = "target"
TARGET = f"/dev/disk/by-id/virtio-{SERIAL}"
SIZE = 2 << 30


@pytest.fixture
def built(build: Callable[[Wanted], Path]) -> Path:
    """The raw image, of a site of its own."""
    (raw,) = build(Wanted(USUAL.replace("site: testcase", "site: metal"))).glob("*.raw")
    return raw


@pytest.fixture
def metal(built: Path) -> Iterator[Metal]:
    plan = load(built.parent.with_suffix(".yaml"))
    with standing(plan, "medium", "router") as metal:
        yield metal


@pytest.mark.long
def test_a_medium_installs_a_router_that_knows_its_name(
    built: Path, metal: Metal, installed: Installed, tmp_path: Path
) -> None:
    usb, target = tmp_path / "usb.raw", tmp_path / "target.raw"
    installed.run("install", built, "--to", usb, "--node", "fw2", "--medium-for", TARGET)
    with target.open("wb") as disk:
        disk.truncate(SIZE)
    medium = metal.machine("medium", usb, disks={SERIAL: target})
    medium.start(fresh_disk=True)
    until(lambda: not medium.running, WITHIN, "the medium to switch the machine off")
    said = medium.config.serial_log.read_text(errors="replace")
    assert "appliance: installed on vd" in said
    medium.close()

    router = metal.machine("router", target)
    router.start(fresh_disk=True)
    router.wait_control(WITHIN)
    router.wait_until("/usr/lib/systemd/systemd-bless-boot status | grep -qx good", WITHIN)
    assert router.succeed("hostname").strip() == "fw2"
    files = router.succeed(
        'cd "$(bootctl -p)" && find EFI/Linux loader/credentials -type f'
    ).split()
    assert sorted(files) == ["EFI/Linux/metal_1.efi", "loader/credentials/appliance-node.cred"]
    named = "for each in /dev/vda?; do blkid -p -o value -s PART_ENTRY_NAME $each; done"
    names = router.succeed(named).split()
    assert names == ["esp", "root_1", "verity_1", "_empty", "_empty", "appliance-state"]
    refused = router.fail("appliance-install /dev/vda --yes")
    assert "appliance: not installed: vda is in use" in refused.err
    router.close()
