"""What is drawn by chance in a VHDX, drawn from its content instead.

Offsets, signatures and identities are those of Microsoft's [MS-VHDX], sections 2.2 and 2.6.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_KIB = 1024
_HEADERS = (64 * _KIB, 128 * _KIB)
_HEADER_SIZE = 4 * _KIB
_REGIONS = 192 * _KIB
_METADATA = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
_PAGE_83 = uuid.UUID("beca12ab-b2e6-4523-93ef-c309e000c746")
_ENTRY = 32
# Signature, checksum, sequence number; the identities of file, of data and of the log; two
# versions, then length and offset of the log.
_HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")
_SPACE = uuid.UUID("2f9de0c4-7a2c-4d0c-9d3a-3a0f5d1b8c47")


def identify(path: Path, digest: str) -> None:
    """Set the identities of the file and its data, and its disk's, from `digest`.

    The log that writing left behind goes: its file was closed, so that nothing in it is to be
    played back.
    """
    with path.open("r+b") as file:
        for number, place in enumerate(_HEADERS):
            _renew(file, place, number, digest)
        metadata = _find(file, _REGIONS, 16, _METADATA, "<Q")
        _put(
            file, metadata + _find(file, metadata, 32, _PAGE_83, "<I"), _id("disk", digest).bytes_le
        )


def _renew(file: BinaryIO, place: int, number: int, digest: str) -> None:
    """Write one of the two headers anew, with its checksum; the one of the higher number rules."""
    header = bytearray(_get(file, place, _HEADER_SIZE))
    signature, _, _, _, _, log, *versions, length, offset = _HEADER.unpack_from(header)
    if signature != b"head" or any(log):
        raise AssertionError(f"{file.name}: no header, or one with a log, at {place}")
    _put(file, offset, bytes(length))
    ids = (_id("file", digest).bytes_le, _id("data", digest).bytes_le, log)
    rest = (number, *ids, *versions, length, offset)
    _HEADER.pack_into(header, 0, signature, 0, *rest)
    _HEADER.pack_into(header, 0, signature, _crc32c(header), *rest)
    _put(file, place, bytes(header))


def _find(file: BinaryIO, table: int, header: int, wanted: uuid.UUID, form: str) -> int:
    """The offset that a table's entry of that identity holds, in the form of that table."""
    for entry in _entries(_get(file, table, 64 * _KIB)[header:]):
        if entry[:16] == wanted.bytes_le:
            return int(struct.unpack_from(form, entry, 16)[0])
    raise AssertionError(f"{file.name}: {wanted} is not in the table at {table}")


def _entries(table: bytes) -> Iterator[bytes]:
    for at in range(0, len(table) - _ENTRY, _ENTRY):
        yield table[at : at + _ENTRY]


def _id(what: str, digest: str) -> uuid.UUID:
    return uuid.uuid5(_SPACE, f"{what} {digest}")


def _get(file: BinaryIO, place: int, size: int) -> bytes:
    file.seek(place)
    return file.read(size)


def _put(file: BinaryIO, place: int, data: bytes) -> None:
    file.seek(place)
    file.write(data)


def _crc32c(data: bytes | bytearray) -> int:
    """The checksum of RFC 3720, appendix B.4, which Python's library does not have."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
