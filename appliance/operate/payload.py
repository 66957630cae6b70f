"""The payload of an update on the operator's machine, and the form in which a node takes it."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from appliance.errors import ToolError
from appliance.node.payload import (
    DESCRIPTION,
    FIRST,
    SUMS,
    Description,
    checksums,
    describe,
    fetched,
)
from appliance.node.refused import RefusedError


@dataclass(frozen=True, slots=True)
class Payload:
    """An update in a folder, or at an HTTPS address from which the nodes fetch it themselves;
    `kernel` is the SHA-256 of its unified kernel image, as hex.

    Whether it is whole and signed is for the nodes to find out: they have the key.
    """

    place: Path | str
    description: Description
    kernel: str

    @property
    def version(self) -> str:
        """The version that a node has afterwards."""
        return self.description.version

    @contextmanager
    def archive(self, *, whole: bool = True, but: Collection[str] = ()) -> Iterator[IO[bytes]]:
        """An open tar file of the folder, as `appliance.node.payload` expects it, but for the files
        that the node has already.
        """
        folder = Path(self.place)
        first = [folder / name for name in FIRST if (folder / name).is_file()]
        others = sorted({each for each in folder.iterdir() if each.name not in but} - set(first))
        with tempfile.TemporaryFile() as out:
            with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for path in [*first, *(others if whole else ())]:
                    tar.add(path, arcname=path.name, filter=_plain)
            out.seek(0)
            yield out


def read(place: str) -> Payload:
    """The payload in a folder as `appliance build` makes it, or at an https:// address; ToolError
    when there is none.
    """
    remote = "://" in place
    try:
        first = _fetched(place) if remote else _found(Path(place))
        description = describe(first[DESCRIPTION])
        kernel = checksums(first[SUMS])[description.kernel]
        return Payload(place if remote else Path(place), description, kernel)
    except (OSError, RefusedError, KeyError) as error:
        hint = "the folder SITE_VERSION.update that appliance build has made"
        raise ToolError(f"{place} is no payload: {error}", hint) from error


def _found(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in (DESCRIPTION, SUMS)}


def _fetched(url: str) -> dict[str, str]:
    first = islice(fetched(url), len(FIRST))
    return {name: content.read().decode(errors="replace") for name, _, content in first}


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nothing of the operator's machine."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member
