"""Which disks may be overwritten, by a kernel whose words are files here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.node import disks, orders
from appliance.node.disks import Disk, Host, UnfitError
from appliance.node.orders import Order

GIB = 1 << 30
LEAST = GIB


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A machine with one disk, `sda` of 4 GiB, with two partitions, which nobody uses."""
    sda = tmp_path / "sys/devices/block/sda"
    (sda / "queue").mkdir(parents=True)
    (sda / "device").mkdir()
    (tmp_path / "sys/dev/block").mkdir(parents=True)
    write(sda, {"size": 4 * GIB // 512, "ro": 0, "dev": "8:0", "device/model": "Fast Disk"})
    write(sda, {"queue/logical_block_size": 512})
    for number in (2, 1):
        (sda / f"sda{number}").mkdir()
        write(sda / f"sda{number}", {"partition": number, "dev": f"8:{number}"})
    for folder in (sda, sda / "sda1", sda / "sda2"):
        (folder / "holders").mkdir()
        link = tmp_path / "sys/dev/block" / (folder / "dev").read_text().strip()
        link.symlink_to(folder)
    (tmp_path / "mountinfo").write_text(f"{mount('7:0', '/boot')}\n")
    (tmp_path / "swaps").write_text("Filename Type Size Used Priority\n")
    return Host(tmp_path / "sys", tmp_path / "mountinfo", tmp_path / "swaps")


def write(folder: Path, values: dict[str, object]) -> None:
    for name, value in values.items():
        (folder / name).write_text(f"{value}\n")


def mount(device: str, place: str) -> str:
    return f"36 35 {device} / {place} rw,noatime master:1 - ext4 /dev/root rw"


def test_an_unused_disk_is_fit(host: Host) -> None:
    assert disks.fit("8:0", LEAST, host) == Disk("sda", 4 * GIB, "Fast Disk")
    assert str(disks.fit("8:0", LEAST, host)) == "sda (Fast Disk, 4.3 GB)"
    folder = (host.sys / "dev/block/8:0").resolve()
    assert [each.name for each in disks.partitions(folder)] == ["sda1", "sda2"]


def mounted(host: Host) -> None:
    host.mounts.write_text(f"{mount('8:2', '/srv')}\n")


def swapped(host: Host) -> None:
    host.swaps.write_text("Filename Type Size Used Priority\n/dev/sda1 partition 999 0 -2\n")


def held(host: Host) -> None:
    (host.sys / "dev/block/8:1/holders/dm-3").mkdir()


def read_only(host: Host) -> None:
    write(host.sys / "dev/block/8:0", {"ro": 1})


def small(host: Host) -> None:
    write(host.sys / "dev/block/8:0", {"size": LEAST // 512 - 1})


def coarse(host: Host) -> None:
    write(host.sys / "dev/block/8:0", {"queue/logical_block_size": 4096})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (mounted, "sda is in use: sda2 is mounted on /srv"),
        (swapped, "sda is in use: sda1 is swapped to"),
        (held, "sda is in use: sda1 is part of dm-3"),
        (read_only, "sda cannot be written to"),
        (small, "sda has 1073741312 bytes: it takes 1073741824"),
        (coarse, "sda has sectors of 4096 bytes: the image is for 512"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_any_other_disk_is_refused(host: Host, change: Callable[[Host], None], why: str) -> None:
    change(host)
    with pytest.raises(UnfitError) as told:
        disks.fit("8:0", LEAST, host)
    assert str(told.value) == why


def test_a_partition_is_refused(host: Host) -> None:
    with pytest.raises(UnfitError, match="sda1 is a partition: the whole disk is sda"):
        disks.fit("8:1", LEAST, host)


@pytest.mark.parametrize(
    ("path", "why"), [("/dev/null", "is no disk"), ("/dev/nosuchdisk", "No such file")]
)
def test_what_is_no_disk_is_refused(path: str, why: str) -> None:
    with pytest.raises(UnfitError, match=why):
        disks.number(Path(path))


@pytest.mark.parametrize("order", [Order("/dev/sda", "fw1"), Order("/dev/disk/by-id/x")])
def test_an_order_is_read_as_it_was_written(tmp_path: Path, order: Order) -> None:
    file = tmp_path / "order"
    file.write_text(order.text())
    assert orders.read(file) == order


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"disk": "/dev/sda", "what": 1}'])
def test_what_is_no_order_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "order"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"."):
        orders.read(file)
