"""The images that this machine can boot: their kernels on its boot partition, and its two slots."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from appliance.node import statefile
from appliance.node.programs import said
from appliance.node.refused import RefusedError

_BLESS = "/usr/lib/systemd/systemd-bless-boot"
_KERNELS = Path("EFI/Linux")

# Of the Discoverable Partitions Specification, as appliance/image/disk.py writes them.
ROOT_TYPE = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
VERITY_TYPE = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"


class Boot(StrEnum):
    """What systemd-bless-boot(8) says of this boot; DIRTY is the last try of a trial as well."""

    CLEAN = "clean"
    GOOD = "good"
    BAD = "bad"
    DIRTY = "dirty"
    INDETERMINATE = "indeterminate"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Image:
    """A unified kernel image on the boot partition. `left` are the tries that the loader still has
    for it: None once it was good, 0 when it has failed.
    """

    path: Path
    version: str
    left: int | None

    @property
    def good(self) -> bool:
        """Whether it was found good once."""
        return self.left is None

    @property
    def usable(self) -> bool:
        """Whether the loader would take it."""
        return self.left != 0

    @property
    def blessed(self) -> str:
        """The name that it has once it was good."""
        name = self.path.name.partition("+")[0].removesuffix(".efi")
        return f"{name}.efi"

    def sha256(self) -> str:
        """Of its bytes, as hex."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for a root and its hash tree: sizes in bytes, and the `devices` of the two."""

    name: str
    root: int
    verity: int
    running: bool
    devices: tuple[Path, Path]


@dataclass(frozen=True, slots=True)
class Images:
    """All of them; `running` is None when what runs is not there any more."""

    folder: Path
    running: Image | None
    others: tuple[Image, ...]

    @property
    def fallback(self) -> Image | None:
        """What the loader would take if the running one were bad."""
        return next((each for each in self.others if each.usable), None)

    @property
    def other(self) -> Image | None:
        """The one beside the running one, whatever it is: there are two slots."""
        return self.fallback or next(iter(self.others), None)


def images(site: str, version: str, esp: Path | None = None) -> Images:
    """Those of a site, of which the one of this version runs."""
    folder = (esp or boot_partition()) / _KERNELS
    found = tuple(_listed(folder, site))
    running = next((each for each in found if each.version == version), None)
    return Images(folder, running, tuple(each for each in found if each is not running))


def _listed(folder: Path, site: str) -> Iterator[Image]:
    named = re.compile(re.escape(site) + r"_([^+_]+)(?:\+(\d+)(?:-\d+)?)?\.efi")
    for path in sorted(folder.iterdir()):
        if found := named.fullmatch(path.name):
            yield Image(path, found[1], None if found[2] is None else int(found[2]))


def describe(found: Images | None, cmdline: str) -> dict[str, Any]:
    """What people are told: the slot that runs, how its boot is judged, and the other image."""
    slot = next((each.name for each in slots(cmdline) if each.running), None)
    other = found.other if found else None
    beside = {"version": other.version, "left": other.left} if other else None
    return {"slot": slot, "boot": boot_state(), "other": beside}


def boot_partition() -> Path:
    """Where it is mounted; RefusedError when there is none."""
    if path := said("bootctl", "--print-esp-path"):
        return Path(path)
    raise RefusedError("there is no boot partition: this machine was not started by its loader")


def boot_state() -> Boot:
    """Of this boot."""
    try:
        return Boot(said(_BLESS, "status"))
    except ValueError:
        return Boot.UNKNOWN


def slots(cmdline: str) -> tuple[Slot, ...]:
    """The disk's slots in their order; the kernel's arguments name the running one."""
    found = re.search(r"\bsystemd\.verity_root_data=PARTUUID=(\S+)", cmdline)
    told = said("lsblk", "--json", "--bytes", "--output", "PARTN,PARTTYPE,PARTUUID,SIZE,PATH")
    listed = json.loads(told or "{}").get("blockdevices", [])
    parts = sorted((each for each in listed if each["partn"]), key=lambda each: each["partn"])
    roots = [each for each in parts if each["parttype"] == ROOT_TYPE]
    trees = [each for each in parts if each["parttype"] == VERITY_TYPE]
    here = found[1] if found else None
    return tuple(
        Slot(
            *(name, root["size"], tree["size"], root["partuuid"] == here),
            devices=(Path(root["path"]), Path(tree["path"])),
        )
        for name, root, tree in zip("ab", roots, trees, strict=False)
    )


def root_hash(cmdline: str) -> str | None:
    """dm-verity's hash of the root that runs: equal ones are of equal bytes."""
    found = re.search(r"\broothash=([0-9a-f]+)", cmdline)
    return found[1] if found else None


def prefer(name: str | None) -> None:
    """Have the loader take the image of this name before a newer one; None: it takes the newest."""
    _must("bootctl", "set-default", name or "")


def prefer_once(image: Image) -> None:
    """The same for the next boot alone. The loader knows an image without the tries that it has."""
    _must("bootctl", "set-oneshot", image.blessed)


def mark_bad(image: Image) -> None:
    """Have the loader take any other image before this one."""
    image.path.rename(image.path.with_name(image.blessed.replace(".efi", "+0.efi")))
    settle(image.path.parent)


def settle(folder: Path) -> None:
    """What was changed in a folder is on the disk when this returns. FAT has no journal."""
    statefile.sync(folder)
    os.sync()


def _must(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RefusedError(f"{argv[0]}: {done.stderr.strip()}")
