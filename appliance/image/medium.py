"""An image written to a disk, with what lies on its boot partition for one machine alone."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pydantic import BaseModel, ValidationError

from appliance.errors import ToolError
from appliance.image import disk, manifest, sparse
from appliance.node import disks, orders
from appliance.node.disks import Disk, UnfitError
from appliance.node.orders import Order
from appliance.progress import step
from appliance.run import run
from appliance.tools import ToolsTree

_CHUNK = 1 << 20

# Folders that every image's boot partition has.
_OF_THE_IMAGE = frozenset({PurePosixPath("loader")})


class _File(BaseModel):
    sha256: str


class _Manifest(BaseModel):
    """What of a manifest counts here."""

    nodes: list[str]
    files: dict[str, _File]


@dataclass(frozen=True, slots=True)
class Image:
    """A raw disk as `appliance build` made it, its SHA-256, and the nodes that it can be."""

    raw: Path
    sha256: str
    nodes: tuple[str, ...]

    def node(self, wanted: str | None) -> str | None:
        """The node to install, None where there is only one; ToolError when it is no node."""
        if wanted is None and len(self.nodes) == 1:
            return None
        if wanted not in self.nodes:
            what = f"no node '{wanted}'" if wanted else "which node will it be?"
            raise ToolError(what, f"--node, one of {', '.join(self.nodes)}")
        return wanted


def read(raw: Path) -> Image:
    """The image, by the manifest beside it; ToolError when it is none, or not as it was built."""
    beside = raw.with_name(manifest.NAME)
    hint = "the .raw file that `appliance build` made, in its folder"
    try:
        told = _Manifest.model_validate_json(beside.read_bytes())
        known = told.files[raw.name].sha256
    except (OSError, ValidationError, KeyError) as error:
        raise ToolError(f"{raw}: no image with a manifest beside it", hint) from error
    with step(f"Reading {raw.name}"):
        if manifest.sha256(raw) != known:
            raise ToolError(f"{raw} is not what its manifest says", "build it anew")
    return Image(raw, known, tuple(told.nodes))


def for_router(node: str | None) -> dict[PurePosixPath, str]:
    """What a router's boot partition holds besides: who it is."""
    return {orders.NODE: f"{node}\n"} if node else {}


def for_installer(target: str, node: str | None) -> dict[PurePosixPath, str]:
    """What makes it a medium that installs itself on the disk `target` of the machine it is in."""
    return {orders.INSTALL: Order(target, node).text()}


def fit(path: Path) -> Disk | None:
    """The disk at `path` if it may be overwritten, None for a file that is yet to be made.

    Raises ToolError when it may not.
    """
    # A name below /dev that is not there is a mistake, and no wish for a file in memory.
    if path.exists() or path.is_symlink() or path.absolute().is_relative_to("/dev"):
        try:
            return disks.fit(disks.number(path), disk.DISK)
        except UnfitError as unfit:
            raise ToolError(str(unfit), "an unused disk, or a file that is not there yet") from None
    return None


def write(image: Image, to: Path, files: Mapping[PurePosixPath, str], tools: ToolsTree) -> None:
    """Write the image to a disk (or a new file) with `files` on its boot partition, and compare.

    Raises ToolError when the disk is used by anybody, or does not hold what was written.
    """
    with tempfile.TemporaryDirectory(dir=image.raw.parent, prefix=".install.") as scratch:
        own = Path(scratch, image.raw.name)
        run(["cp", "--sparse=always", image.raw, own])
        with step("Saying on the boot partition what it is for"):
            _place(own, files, tools)
        with _opened(to) as target:
            with step(f"Writing {to}"):
                digest = _copy(own, target)
            with step(f"Comparing {to}"):
                _compare(target, own.stat().st_size, digest, to)


def _place(raw: Path, files: Mapping[PurePosixPath, str], tools: ToolsTree) -> None:
    """Add the files, each as if it were of the image."""
    sources = {}
    for number, (path, text) in enumerate(files.items()):
        sources[path] = raw.with_name(f"{number}.cred")
        sources[path].write_text(text)
    disk.place_files(raw, sources, tools, there=_OF_THE_IMAGE)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A disk for us alone, or a new file, which goes again if anything goes wrong."""
    made = not path.exists()
    flags = os.O_RDWR | os.O_EXCL | (os.O_CREAT if made else 0)
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        raise ToolError(f"{path}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            yield file
    except BaseException:
        if made:
            path.unlink(missing_ok=True)
        raise


def _copy(source: Path, target: BinaryIO) -> str:
    """Write all of it, holes too: what a used disk holds there is no part of the image."""
    digest = hashlib.sha256()
    for chunk in sparse.chunks(source):
        view = memoryview(chunk)
        while view:
            view = view[target.write(view) :]
        digest.update(chunk)
    os.fsync(target.fileno())
    return digest.hexdigest()


def _compare(target: BinaryIO, size: int, digest: str, path: Path) -> None:
    """Read it anew, not from memory."""
    os.posix_fadvise(target.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    target.seek(0)
    found = hashlib.sha256()
    for place in range(0, size, _CHUNK):
        found.update(target.read(min(_CHUNK, size - place)))
    if found.hexdigest() != digest:
        raise ToolError(f"{path} does not hold what was written to it", "the disk is broken")
