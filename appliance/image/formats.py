"""The disk in the formats of hypervisors, written from the raw one: the same bytes each time."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path

from appliance.image import vhdx
from appliance.run import run
from appliance.tools import ToolsTree


class Format(StrEnum):
    """What a disk image can be: the name is qemu-img's and the file's ending.

    `raw` is always made, as all others and the update come from it.
    """

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VHDX = "vhdx"


# What imports such a file takes it compressed where the format can be: VMware's importers ask for
# stream-optimized files. Hyper-V knows no compression, but holes.
_OPTIONS: Mapping[Format, tuple[str, ...]] = {
    Format.QCOW2: ("-c",),
    Format.VMDK: ("-o", "subformat=streamOptimized,adapter_type=lsilogic"),
    Format.VHDX: ("-o", "subformat=dynamic"),
}

_SECTOR = 512
_DESCRIPTOR = slice(_SECTOR, 21 * _SECTOR)  # where qemu-img puts it, and how much room it has


def convert(raw: Path, wanted: Format, digest: str, tools: ToolsTree) -> Path:
    """Write `raw`, whose SHA-256 is `digest`, in another format beside it; the new file.

    qemu-img draws what tells one file from another; here it comes from the content.
    """
    made = raw.with_suffix(f".{wanted}")
    # The format's name must not be guessed from what is on the disk.
    run(
        tools.inside(
            ["qemu-img", "convert", "-f", "raw", "-O", wanted, *_OPTIONS[wanted], raw, made]
        )
    )
    _IDENTIFY.get(wanted, _leave)(made, digest)
    return made


def _leave(made: Path, digest: str) -> None:
    """Nothing in a qcow2 is drawn: its clusters are written in the order of the disk."""


def _identify_vmdk(made: Path, digest: str) -> None:
    """Give the descriptor a content ID from the content.

    VMware's Virtual Disk Format 5.0, "The Header": a random number that changes with the content.
    """
    with made.open("r+b") as file:
        file.seek(_DESCRIPTOR.start)
        room = file.read(_DESCRIPTOR.stop - _DESCRIPTOR.start)
        text = re.sub(rb"\nCID=\w+", b"\nCID=" + digest[:8].encode(), room.rstrip(b"\0"), count=1)
        file.seek(_DESCRIPTOR.start)
        file.write(text.ljust(len(room), b"\0"))


_IDENTIFY: Mapping[Format, Callable[[Path, str], None]] = {
    Format.VMDK: _identify_vmdk,
    Format.VHDX: vhdx.identify,
}
