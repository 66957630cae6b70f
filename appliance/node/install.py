"""Install the running image on another disk: `appliance-install DISK --yes`, on a node.

Also what a medium does that installs by itself: then the order lies on its boot partition. The
partitions are copied as they are, and compared; those for updates and state are made by the first
boot from the new disk.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance.node import disks, orders
from appliance.node.disks import UnfitError
from appliance.node.orders import Order

_HELP = "Copy the running image to another disk, which loses all that is on it."
_BLOCK = Path("/sys/class/block")
_LEAST = 1 << 30  # bytes, as the image: room for both slots, and some for state
_APPEARS_S = 60.0  # that a disk takes to be found, on a slow machine
_POLL_S = 0.5
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """A partition of the running image: `kind` as repart.d(5) calls it, and its name's begin."""

    kind: str
    name: str
    read_only: bool = True


# What makes the table anew; whoever runs it names the folder of definitions, and the disk.
REPART = ("systemd-repart", "--empty=force", "--dry-run=no", "--seed=random", "--discard=no")

# In their order on the disk.
PARTS = (Part("esp", "esp", read_only=False), Part("root", "root_"), Part("root-verity", "verity_"))


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0 when the disk is as it should be, 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="appliance-install", description=_HELP)
    parser.add_argument("disk", nargs="?", help="such as /dev/sda")
    parser.add_argument("--node", help="the node that it will be, if not this one")
    parser.add_argument("--yes", action="store_true", help="overwrite the disk")
    parser.add_argument("--order", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if bool(given.disk) == bool(given.order):
        parser.error("the disk to overwrite")
    try:
        order = orders.read(given.order) if given.order else Order(given.disk, given.node)
        _appears(Path(order.disk), _APPEARS_S if given.order else 0.0)
        disk = disks.fit(disks.number(Path(order.disk)), _LEAST)
        if not (given.yes or given.order):
            raise UnfitError(f"{disk} would lose all that is on it: say --yes")
        install(order, disk.name)
    except (UnfitError, ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"appliance: not installed: {error}", file=sys.stderr)
        return 1
    print(f"appliance: installed on {disk}, as {order.node or 'the only node'}")
    return 0


def install(order: Order, name: str) -> None:
    """Do it, on a disk that is fit."""
    os.close(os.open(f"/dev/{name}", os.O_RDWR | os.O_EXCL))  # fails where the kernel uses it
    # Mounted, the boot partition changes by itself: a mark in it says that it is mounted.
    for place in ("/efi", "/boot"):
        subprocess.run(["umount", "--quiet", place], capture_output=True, check=False)
    os.sync()
    running = running_image()
    with tempfile.TemporaryDirectory(prefix="appliance-install.") as work:
        _partition(Path(work), running, name)
    copies = [Path("/dev", each.name) for each in disks.partitions(_folder(Path(name)))]
    for source, copy in zip(running, copies, strict=True):
        _compare(source, copy)
    with _mounted(copies[0]) as boot:
        address(boot, order, _name(_folder(running[1])).removeprefix(PARTS[1].name))


def running_image() -> list[Path]:
    """The partitions that this system runs from, in the order of PARTS.

    The root's is the one below dm-verity's device `root`; the others lie on the same disk.
    """
    (root,) = [each for each in _BLOCK.glob("dm-*") if _said(each / "dm/name") == "root"]
    below = next(iter((root / "slaves").iterdir())).resolve()
    beside = disks.partitions(below.parent)
    slaves = {each.name for each in (root / "slaves").iterdir()}
    found = []
    for part in PARTS:
        fitting = [each for each in beside if _name(each).startswith(part.name)]
        running = [each for each in fitting if not part.read_only or each.name in slaves]
        found.append(Path("/dev", running[0].name))
    return found


def definition(part: Part, source: Path, label: str, size: int, identity: str) -> str:
    """The partition in the language of repart.d(5): a copy, as large as its original (bytes).

    systemd-veritysetup-generator(8) finds what is read only by its identity; a boot partition has
    no need to be the same as another disk's.
    """
    lines = [f"Type={part.kind}", f"Label={label}", f"CopyBlocks={source}"]
    lines += [f"SizeMinBytes={size}", f"SizeMaxBytes={size}"]
    if part.read_only:
        lines += [f"UUID={identity}", "ReadOnly=yes"]
    return "\n".join(["[Partition]", *lines, ""])


def address(boot: Path, order: Order, version: str) -> None:
    """Make a copied boot partition that of the new node: it has the kernel of that version alone,
    which nothing has booted yet.
    """
    (boot / orders.INSTALL).unlink(missing_ok=True)
    for kernel in (boot / "EFI/Linux").glob("*.efi"):
        name = kernel.name.removesuffix(".efi").partition("+")[0]
        if name.rpartition("_")[2] == version:
            kernel.rename(kernel.with_name(f"{name}+{orders.TRIES}.efi"))
        else:
            kernel.unlink()
    if order.node:
        (boot / orders.FOLDER).mkdir(exist_ok=True)
        (boot / orders.NODE).write_text(f"{order.node}\n")


def _partition(work: Path, running: list[Path], name: str) -> None:
    for number, (part, source) in enumerate(zip(PARTS, running, strict=True)):
        folder = _folder(source)
        size = int(_said(folder / "size")) * disks.UNIT
        text = definition(part, source, _name(folder), size, _identity(source))
        (work / f"{number}.conf").write_text(text)
    _run(*REPART, f"--definitions={work}", f"/dev/{name}")
    _run("udevadm", "settle")


def _compare(source: Path, copy: Path) -> None:
    """Read both anew, not from memory."""
    with source.open("rb", buffering=0) as one, copy.open("r+b", buffering=0) as other:
        os.fsync(other.fileno())
        os.posix_fadvise(other.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while here := one.read(_CHUNK):
            if other.read(len(here)) != here:
                raise OSError(f"{copy} is not what was written to it")


@contextmanager
def _mounted(device: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="appliance-boot.") as place:
        _run("mount", "-t", "vfat", "-o", "noatime", str(device), place)
        try:
            yield Path(place)
        finally:
            _run("umount", place)


def _appears(path: Path, seconds: float) -> None:
    """Wait for a disk that may not have been found yet."""
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(_POLL_S)  # poll


def _folder(device: Path) -> Path:
    """What sysfs has of a device."""
    return (_BLOCK / device.name).resolve()


def _identity(device: Path) -> str:
    argv = ["blkid", "--probe", "--match-tag=PART_ENTRY_UUID", "--output=value", str(device)]
    return _run(*argv).strip()


def _name(folder: Path) -> str:
    """The name of a partition, as its disk's table has it."""
    lines = _said(folder / "uevent").splitlines()
    said = (line.partition("=")[2] for line in lines if line.startswith("PARTNAME="))
    return next(said, "")


def _said(path: Path) -> str:
    return path.read_text().strip()


def _run(*argv: str) -> str:
    """What a program says; OSError with its last words when it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{argv[0]}: {done.stderr.strip() or done.returncode}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
