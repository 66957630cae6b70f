"""QEMU's command line against golden texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.lab import credentials, qemu
from appliance.lab.qemu import Accelerator, FirmwareBoot, KernelBoot, Machine, Nic, Sockets

GOLDEN = Path(__file__).parent / "golden"

NODE = Machine(
    name="fw1",
    boot=FirmwareBoot(Path("/lab/fw1.qcow2"), Path("/lab/fw1.vars")),
    nics=(
        Nic("inside", "enp0s3", qemu.mac("testcase", "fw1", "inside")),
        Nic("outside", "lan0", qemu.mac("testcase", "fw1", "outside")),
    ),
    accelerator=Accelerator.TCG,
    serial_log=Path("/lab/with,comma/fw1.log"),
    credentials={"appliance.node": "fw1", "lab.agent": "x" * 5000},
)
PEERS = Machine(
    name="peers",
    boot=KernelBoot(Path("/k"), Path("/i"), Path("/r"), "console=ttyS0"),
    nics=(Nic("inside", "enp0s3", qemu.mac("testcase", "peers", "inside")),),
    accelerator=Accelerator.KVM,
    serial_log=Path("/lab/peers.log"),
    memory=512,
)
METAL = Machine(
    name="metal",
    boot=FirmwareBoot(Path("/lab/metal.qcow2"), Path("/lab/metal.vars")),
    nics=(),
    accelerator=Accelerator.TCG,
    serial_log=Path("/lab/metal.log"),
    disks={"target": Path("/lab/with,comma/target.raw")},
)
SECURE = Machine(
    name="secure",
    boot=FirmwareBoot(
        Path("/lab/s.qcow2"), Path("/lab/s.vars"), qemu.secure_firmware(Path("/lab/keys.fd"))
    ),
    nics=(),
    accelerator=Accelerator.TCG,
    serial_log=Path("/lab/s.log"),
)
RECORDED = Machine(
    name="recorded",
    boot=FirmwareBoot(
        *(Path("/lab/with,comma.qcow2"), Path("/lab/r.vars")), writes=Path("/lab/with,comma.writes")
    ),
    nics=(),
    accelerator=Accelerator.TCG,
    serial_log=Path("/lab/r.log"),
)


@pytest.mark.parametrize(
    "machine", [NODE, PEERS, METAL, SECURE, RECORDED], ids=lambda machine: machine.name
)
def test_command_line(machine: Machine) -> None:
    files = {name: Path(f"/lab/{name}") for name in qemu.by_file(machine.credentials)}
    numbers = tuple(range(10, 10 + len(machine.nics)))
    words = qemu.command(machine, Sockets(3, 4, numbers), files)
    lines = "".join(f" {w}" if not w.startswith("-") else f"\n{w}" for w in words) + "\n"
    assert lines == (GOLDEN / f"{machine.name}.txt").read_text()


def test_addresses_follow_from_the_names_and_differ() -> None:
    macs = {qemu.mac(s, m, n) for s in ("s", "t") for m in ("a", "b") for n in ("x", "y")}
    assert len(macs) == 8
    assert qemu.mac("s", "a", "x") == qemu.mac("s", "a", "x")
    for mac in macs:
        assert int(mac[:2], 16) & 0x03 == 0x02  # locally administered, one machine


def test_no_two_devices_share_a_slot_however_the_cards_are_named() -> None:
    nics = tuple(Nic(f"n{n}", f"enp0s{n}", "x") for n in (30, 29, 28, 3))
    machine = Machine("m", PEERS.boot, nics, Accelerator.TCG, Path("/log"))
    words = qemu.command(machine, Sockets(3, 4, (5, 6, 7, 8)), {})
    slots = [word.rpartition("addr=")[2] for word in words if "addr=0x" in word]
    assert len(slots) == len(set(slots)) == 9


def test_only_cards_whose_slot_does_not_name_them_get_a_link_file() -> None:
    links = qemu.link_credentials(NODE.nics)
    assert list(links) == ["network.link.10-lab-lan0"]
    assert "Name=lan0" in links["network.link.10-lab-lan0"]


def test_names_of_credentials_fit_where_they_travel() -> None:
    """fw_cfg takes names of at most 55 bytes."""
    long = qemu.by_file({**credentials.agent(), **credentials.node("fw1", "ssh-ed25519 AAAA")})
    assert long
    assert all(len(f"opt/io.systemd.credentials/{name}") <= 55 for name in long)
