"""Initrd archives, written bit for bit the same from the same files.

The format is "newc" of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from appliance.render.tree import File


def archive(files: Mapping[PurePosixPath, File | bytes]) -> bytes:
    """The archive of `files` and the folders above them; all of them root's, and of 1970."""
    entries = [(path, stat.S_IFDIR | 0o755, b"") for path in _folders(files)]
    entries += [(path, *_file(file)) for path, file in files.items()]
    body = b"".join(
        _entry(number, str(path), mode, content)
        for number, (path, mode, content) in enumerate(sorted(entries), start=1)
    )
    return body + _entry(0, "TRAILER!!!", 0, b"")


def _file(file: File | bytes) -> tuple[int, bytes]:
    """Mode and content; what is bytes anyone may read."""
    if isinstance(file, bytes):
        return stat.S_IFREG | 0o644, file
    return stat.S_IFREG | file.mode, file.content.encode()


def _folders(files: Mapping[PurePosixPath, File | bytes]) -> Iterator[PurePosixPath]:
    """Each folder above a file, once; the kernel makes none by itself."""
    above = {folder for path in files for folder in path.parents}
    yield from above - {PurePosixPath(".")}


def _entry(number: int, name: str, mode: int, content: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    owner = group = modified = device = 0
    fields = [number, mode, owner, group, links, modified, len(content)]
    fields += [device, device, device, device, len(encoded), 0]
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + encoded) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
