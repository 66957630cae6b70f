"""The disk that a router starts from: its partitions, and what lies on the first of them.

GPT types are those of the Discoverable Partitions Specification; the partitions that a first boot
adds are declared in overlays/common/usr/lib/repart.d, with the same sizes.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from appliance.errors import ToolError
from appliance.image.base import Base
from appliance.run import run
from appliance.tools import ToolsTree

MIB = 1 << 20
SECTOR = 512

# Room for slot B and the state too: a disk that is never enlarged works as it is.
DISK = 1024 * MIB
ESP = 128 * MIB
ROOT_SLOT = 256 * MIB
VERITY_SLOT = 8 * MIB

_ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
_ROOT_TYPE = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
_VERITY_TYPE = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"
_READ_ONLY = "GUID:60"
# 1980 is where FAT's time begins.
_NO_TIME = {"SOURCE_DATE_EPOCH": "315532800", "TZ": "UTC"}
_OURS = uuid.UUID("9f0a2b8e-4a0f-4a4c-9c55-7d0b1e6a6f11")


@dataclass(frozen=True, slots=True)
class Partition:
    """One line of the partition table; `start` and `size` in bytes."""

    label: str
    type: str
    id: uuid.UUID
    start: int
    size: int
    attributes: str = ""

    def line(self) -> str:
        """The partition in sfdisk's language."""
        text = f"start={self.start // SECTOR}, size={self.size // SECTOR}, type={self.type}, "
        text += f'uuid={self.id}, name="{self.label}"'
        return f'{text}, attrs="{self.attributes}"' if self.attributes else text


def root_ids(version: str, root_hash: str) -> tuple[uuid.UUID, uuid.UUID]:
    """The identities of the root and of its hash tree, by which the kernel's arguments name them.

    Not the ends of the hash alone, which are usual: two versions may have the same root, and while
    an update is written over the one the other must not be taken for it.
    """
    name = f"{version} {root_hash}"
    return uuid.uuid5(_OURS, f"root {name}"), uuid.uuid5(_OURS, f"verity {name}")


def root_arguments(version: str, root_hash: str) -> str:
    """The kernel's arguments for systemd-veritysetup-generator(8), beside the hash itself."""
    root, verity = root_ids(version, root_hash)
    return f"systemd.verity_root_data=PARTUUID={root} systemd.verity_root_hash=PARTUUID={verity}"


def partitions(version: str, root_hash: str) -> tuple[Partition, Partition, Partition]:
    """The boot partition and slot A, in their order on the disk."""
    root, verity = root_ids(version, root_hash)
    slot = MIB + ESP
    return (
        Partition("esp", _ESP_TYPE, uuid.uuid5(_OURS, "esp"), MIB, ESP),
        Partition(f"root_{version}", _ROOT_TYPE, root, slot, ROOT_SLOT, _READ_ONLY),
        Partition(
            f"verity_{version}", _VERITY_TYPE, verity, slot + ROOT_SLOT, VERITY_SLOT, _READ_ONLY
        ),
    )


def write(
    disk: Path, version: str, base: Base, boot: Mapping[PurePosixPath, Path], tools: ToolsTree
) -> None:
    """Make `disk`: its partition table, the files `boot` on the first partition, slot A filled."""
    esp, root, verity = partitions(version, base.facts().root_hash)
    with disk.open("wb") as image:
        image.truncate(DISK)
    table = ["label: gpt", f"label-id: {uuid.uuid5(_OURS, 'disk')}", f"sector-size: {SECTOR}"]
    table += [partition.line() for partition in (esp, root, verity)]
    run(tools.inside(["sfdisk", "--quiet", disk]), stdin="\n".join(table) + "\n")
    _fill_esp(disk, esp, boot, tools)
    _fill(disk, root, base.root)
    _fill(disk, verity, base.verity)


def _fill_esp(
    disk: Path, esp: Partition, boot: Mapping[PurePosixPath, Path], tools: ToolsTree
) -> None:
    """Format the boot partition and put the files there one by one, without a trace of when.

    With two sectors a cluster, as firmware takes a FAT of fewer than 65,525 clusters for FAT16.
    """
    form = ["-F", "32", "-s", "2", "-n", "ESP", "-i", f"{esp.id.time_low:08x}"]
    place = [f"--offset={esp.start // SECTOR}", str(disk), str(esp.size // 1024)]
    run(tools.inside(["mkfs.vfat", "--invariant", *form, *place]))
    place_files(disk, boot, tools)


def place_files(
    disk: Path,
    files: Mapping[PurePosixPath, Path],
    tools: ToolsTree,
    there: Collection[PurePosixPath] = (),
) -> None:
    """Put files on the boot partition; the folders `there` it has already."""
    into = ["-i", f"{disk}@@{MIB}"]
    folders = {folder for path in files for folder in path.parents} - {PurePosixPath("."), *there}
    if folders:
        names = [f"::/{folder}" for folder in sorted(folders)]
        run(tools.inside(["mmd", *into, *names]), env=_NO_TIME)
    for path, source in sorted(files.items()):
        run(tools.inside(["mcopy", *into, source, f"::/{path}"]), env=_NO_TIME)


def _fill(disk: Path, partition: Partition, content: Path) -> None:
    with disk.open("r+b") as target, content.open("rb") as source:
        size = os.fstat(source.fileno()).st_size
        if size > partition.size:
            what = f"{partition.label} has {size} bytes: its slot has {partition.size}"
            raise ToolError(what, "less firmware in the site file makes it smaller")
        target.seek(partition.start)
        os.sendfile(target.fileno(), source.fileno(), 0, size)
