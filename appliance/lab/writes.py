"""What a machine has written to its disk, and what of it a power cut leaves there.

A disk with a cache promises only what was flushed. Of what was written since, any part may be on
it, whatever its order, and of the last write a part of its sectors. A machine with
`qemu.FirmwareBoot.writes` records all of its writes; here a disk is made from them as it would be
found after a cut at any moment.

The record has the format of Linux's dm-log-writes (drivers/md/dm-log-writes.c), which QEMU's
`blklogwrites` writes: after one sector of its own, a sector for each request, and then its data.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from appliance.lab.errors import HarnessError

SECTOR = 512
_HEAD = struct.Struct("<4Q")  # sector, number of sectors, flags, length of a mark
_FLUSH, _DISCARD = 1, 4


@dataclass(frozen=True, slots=True)
class Write:
    """Where it goes on the disk, how much, and where its data is in the record: bytes."""

    at: int
    size: int
    data: int

    def first(self, size: int) -> Write:
        """Its first bytes."""
        return Write(self.at, size, self.data)


@dataclass(frozen=True, slots=True)
class Cut:
    """A moment at which the power fails: what was flushed is `safe`, `left` is on the disk too."""

    safe: Sequence[Write]
    left: Sequence[Write]


@dataclass(frozen=True, slots=True)
class Record:
    """The writes between each flush and the next, in their order. What a machine discards stays as
    it was, as a disk may choose.
    """

    path: Path
    intervals: tuple[tuple[Write, ...], ...]

    def cut(self, draw: random.Random, begin: int = 0) -> Cut:
        """A random one, behind so many intervals. Each has the same chance, however much was
        written in it.
        """
        number = draw.randrange(begin, len(self.intervals))
        begun = self.intervals[number][: draw.randint(0, len(self.intervals[number]))]
        left = [write for write in begun[:-1] if draw.random() < 0.5]
        left += [last.first(SECTOR * draw.randint(0, last.size // SECTOR)) for last in begun[-1:]]
        return Cut([w for each in self.intervals[:number] for w in each], left)

    def replay(self, cut: Cut, disk: Path) -> None:
        """Make a raw disk, as it was when the record began, what it was after this cut."""
        with self.path.open("rb") as record, disk.open("r+b") as file:
            for write in (*cut.safe, *cut.left):
                record.seek(write.data)
                file.seek(write.at)
                file.write(record.read(write.size))


def read(path: Path) -> Record:
    """The record of a machine that is off, or frozen; HarnessError when it is not whole."""
    intervals: list[tuple[Write, ...]] = []
    with path.open("rb") as file:
        since: list[Write] = []
        for write in _requests(file, path.stat().st_size):
            if write:
                since.append(write)
            elif since:
                intervals.append(tuple(since))
                since = []
    return Record(path, (*intervals, tuple(since)))


def _requests(file: BinaryIO, end: int) -> Iterator[Write | None]:
    """Each write; None for a flush."""
    place = SECTOR
    while place < end:
        file.seek(place)
        sector, count, flags, _ = _HEAD.unpack(file.read(_HEAD.size))
        place += SECTOR
        if flags & _FLUSH:
            yield None
        elif not flags & _DISCARD:
            if not 0 < count * SECTOR <= end - place:
                raise HarnessError(f"{file.name}: a write is missing at {place}: did it fail?")
            yield Write(sector * SECTOR, count * SECTOR, place)
            place += count * SECTOR
