"""Capture files in the classic pcap format with microseconds (draft-ietf-opsawg-pcap): writer, and
reader for proofs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)  # link type 1 is Ethernet
_RECORD = struct.Struct("<IIII")


class Record(NamedTuple):
    """One captured frame; `time` in seconds since 1970."""

    time: float
    frame: bytes


class Writer:
    """Appends frames to a capture that others may follow while it grows."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self._file.write(HEADER)
        self._file.flush()

    def add(self, nanoseconds: int, frame: bytes) -> None:
        """Append a frame with its time since 1970."""
        seconds, rest = divmod(nanoseconds // 1000, 1_000_000)
        self._file.write(_RECORD.pack(seconds, rest, len(frame), len(frame)) + frame)

    def flush(self) -> int:
        """Let followers see all that was added; gives the capture's length, which ends a record."""
        self._file.flush()
        return self._file.tell()


def read(path: Path, since: int = 0) -> Iterator[Record]:
    """The whole records of a capture from byte `since` on (0: the beginning); stops at a
    half-written one.
    """
    with path.open("rb") as file:
        file.seek(max(since, len(HEADER)))
        while len(head := file.read(_RECORD.size)) == _RECORD.size:
            seconds, micro, length, _ = _RECORD.unpack(head)
            frame = file.read(length)
            if len(frame) < length:
                return
            yield Record(seconds + micro / 1_000_000, frame)
