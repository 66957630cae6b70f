"""The payload of an update on the operator's machine, and the form in which a node takes it."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from appliance.errors import ToolError
from appliance.node.payload import (
    DESCRIPTION,
    FIRST,
    SUMS,
    Description,
    RefusedError,
    checksums,
    describe,
)


@dataclass(frozen=True, slots=True)
class Payload:
    """An update in `folder`; `kernel` is the SHA-256 of its unified kernel image, as hex.

    Whether it is whole and signed is for the nodes to find out: they have the key.
    """

    folder: Path
    description: Description
    kernel: str

    @property
    def version(self) -> str:
        """The version that a node has afterwards."""
        return self.description.version

    @property
    def size(self) -> int:
        """What is sent, in bytes."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    @contextmanager
    def archive(self, *, whole: bool = True) -> Iterator[IO[bytes]]:
        """An open tar file of it, as `appliance.node.payload` expects it."""
        first = [self.folder / name for name in FIRST if (self.folder / name).is_file()]
        others = sorted(set(self.folder.iterdir()) - set(first))
        with tempfile.TemporaryFile() as out:
            with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for path in [*first, *(others if whole else ())]:
                    tar.add(path, arcname=path.name, filter=_plain)
            out.seek(0)
            yield out


def read(folder: Path) -> Payload:
    """The payload in a folder as `appliance build` makes it; ToolError when it is none."""
    try:
        description = describe((folder / DESCRIPTION).read_text())
        sums = checksums((folder / SUMS).read_text())
        return Payload(folder, description, sums[description.kernel])
    except (OSError, RefusedError, KeyError) as error:
        hint = "the folder SITE_VERSION.update that appliance build has made"
        raise ToolError(f"{folder} is no payload: {error}", hint) from error


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nothing of the operator's machine."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member
