"""A disk that is mostly holes, read for its hash and its compressed form, for both at once.

A hole is not read: that would cost a page of memory for each 4 KiB of it.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from appliance.run import fed
from appliance.tools import ToolsTree

_CHUNK = 1 << 20
_ZEROS = bytes(_CHUNK)


def chunks(path: Path) -> Iterator[bytes]:
    """The content of a file, up to 1 MiB at a time."""
    with path.open("rb", buffering=0) as file:
        place, end = 0, os.fstat(file.fileno()).st_size
        while place < end:
            data = _data(file.fileno(), place, end)
            for at in range(place, data, _CHUNK):
                yield _ZEROS[: data - at]
            place = data if data == end else os.lseek(file.fileno(), data, os.SEEK_HOLE)
            for at in range(data, place, _CHUNK):
                yield os.pread(file.fileno(), min(_CHUNK, place - at), at)


def _data(fd: int, place: int, end: int) -> int:
    """Where the next data begins; the end of the file when there is none."""
    try:
        return os.lseek(fd, place, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return end


def pack(path: Path, tools: ToolsTree) -> str:
    """Compress a file to `path`.zst, and tell its SHA-256 as hex."""
    size = f"--stream-size={path.stat().st_size}"
    argv = tools.inside(["zstd", "--quiet", "-1", "--threads=0", size])
    with ThreadPoolExecutor() as pool:
        digest = pool.submit(_sha256, path)
        with fed(argv, path.with_name(f"{path.name}.zst")) as pipe:
            for chunk in chunks(path):
                pipe.write(chunk)
        return digest.result()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for chunk in chunks(path):
        digest.update(chunk)
    return digest.hexdigest()
