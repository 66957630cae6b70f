"""Whether a disk may be overwritten: it is one, nothing uses it, and it is large enough.

From sysfs (the kernel's Documentation/ABI/stable/sysfs-block), proc_pid_mountinfo(5) and
proc_swaps(5). Standard library only: this runs on a node, and on a build machine.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

UNIT = 512  # bytes: what sysfs counts in, whatever the disk's own sectors are
SECTOR = 512  # bytes: those of the image's partition table and boot partition


class UnfitError(Exception):
    """The disk may not be overwritten; says why."""


@dataclass(frozen=True, slots=True)
class Host:
    """Where the kernel tells of disks and of who uses them."""

    sys: Path = Path("/sys")
    mounts: Path = Path("/proc/self/mountinfo")
    swaps: Path = Path("/proc/swaps")


@dataclass(frozen=True, slots=True)
class Disk:
    """A whole disk: its name in the kernel, its size in bytes, what its maker calls it."""

    name: str
    size: int
    model: str

    def __str__(self) -> str:
        return f"{self.name} ({self.model}, {self.size / 1e9:.1f} GB)"


def number(path: Path) -> str:
    """The device number of a disk, as the kernel writes it; UnfitError when it is no disk."""
    try:
        status = path.stat()
    except OSError as error:
        raise UnfitError(f"{path}: {error.strerror}") from error
    if not stat.S_ISBLK(status.st_mode):
        raise UnfitError(f"{path} is no disk")
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def fit(device: str, least: int, host: Host | None = None) -> Disk:
    """The disk of that number, if it may be overwritten with `least` bytes; UnfitError if not."""
    host = host or Host()
    folder = (host.sys / "dev/block" / device).resolve()
    name = folder.name
    if (folder / "partition").exists():
        raise UnfitError(f"{name} is a partition: the whole disk is {folder.parent.name}")
    size = int(_read(folder / "size")) * UNIT
    if _read(folder / "ro") != "0":
        raise UnfitError(f"{name} cannot be written to")
    if (sector := int(_read(folder / "queue/logical_block_size"))) != SECTOR:
        raise UnfitError(f"{name} has sectors of {sector} bytes: the image is for {SECTOR}")
    if size < least:
        raise UnfitError(f"{name} has {size} bytes: it takes {least}")
    for use in _uses(folder, host):
        raise UnfitError(f"{name} is in use: {use}")
    return Disk(name, size, _model(folder))


def partitions(folder: Path) -> list[Path]:
    """The partitions of a disk, both as folders of sysfs, by their numbers."""
    found = [each.parent for each in folder.glob("*/partition")]
    return sorted(found, key=lambda each: int(_read(each / "partition")))


def _uses(folder: Path, host: Host) -> Iterator[str]:
    """Who uses a disk or part of it. Not all: a file system of several disks is told of by no
    number, so that whoever writes has to ask the kernel as well (O_EXCL of open(2)).
    """
    mounts = [line.split() for line in host.mounts.read_text().splitlines()]
    swaps = [line.split()[0] for line in host.swaps.read_text().splitlines()[1:]]
    for part in (folder, *partitions(folder)):
        yield from (f"{part.name} is mounted on {m[4]}" for m in mounts if m[2] == _dev(part))
        yield from (f"{part.name} is swapped to" for each in swaps if Path(each).name == part.name)
        for holder in sorted((part / "holders").iterdir()):
            yield f"{part.name} is part of {holder.name}"


def _dev(folder: Path) -> str:
    return _read(folder / "dev")


def _model(folder: Path) -> str:
    try:
        return _read(folder / "device/model")
    except OSError:
        return "no model"


def _read(path: Path) -> str:
    return path.read_text().strip()
