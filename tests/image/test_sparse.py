"""A sparse disk, hashed and compressed in one pass."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from appliance.errors import ToolError
from appliance.image import sparse
from appliance.run import fed

MIB = 1 << 20
DATA = {
    "nothing at all": {},
    "all of it": {0: b"x" * (3 * MIB + 7)},
    "between holes": {5 * MIB: b"a" * 5000, 9 * MIB + 4096: b"b" * MIB},
    "at both ends": {0: b"begin", 12 * MIB - 4: b"ends"},
}


@pytest.fixture(params=DATA)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "site_1.raw"
    with path.open("wb") as file:
        file.truncate(12 * MIB)
        for place, content in DATA[request.param].items():
            file.seek(place)
            file.write(content)
    return path


def test_a_disk_is_read_as_it_is(disk: Path) -> None:
    found = list(sparse.chunks(disk))
    assert b"".join(found) == disk.read_bytes()
    assert max(map(len, found)) <= MIB


def test_it_is_hashed_and_compressed_in_one_pass(disk: Path, tools_tree, inside) -> None:
    digest = hashlib.sha256(disk.read_bytes()).hexdigest()
    assert sparse.pack(disk, tools_tree) == digest
    packed = disk.with_name("site_1.raw.zst")
    inside("zstd", "--quiet", "--decompress", packed, "-o", disk.with_name("again"))
    assert disk.with_name("again").read_bytes() == disk.read_bytes()


def test_a_program_that_gives_up_is_told_of(tmp_path: Path) -> None:
    argv = ["sh", "-c", "echo no room >&2; exit 3"]
    with pytest.raises(ToolError, match=r"exit code 3: sh -c .*\nno room"):
        feed(argv, tmp_path / "out")


def test_a_program_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="program not found"):
        feed(["/nowhere/zstd"], tmp_path / "out")


def feed(argv: list[str], out: Path) -> None:
    """More than a pipe holds."""
    with fed(argv, out) as pipe:
        for _ in range(100):
            pipe.write(bytes(MIB))
