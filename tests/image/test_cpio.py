"""The site's archive is what the kernel will unpack, and depends on nothing but the files."""

from __future__ import annotations

import subprocess
from pathlib import Path, PurePosixPath

from appliance.image import cpio
from appliance.render.tree import File

FILES = {
    PurePosixPath("b/two"): File("zwei\n", 0o600),
    PurePosixPath("b/c/three"): File("", 0o755),
    PurePosixPath("a"): File("ein wenig länger"),
}


def test_the_same_files_in_any_order_are_the_same_bytes() -> None:
    other_way_round = dict(reversed(FILES.items()))
    assert cpio.archive(FILES) == cpio.archive(other_way_round)


def test_folders_come_before_what_is_in_them(inside, tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(cpio.archive(FILES))
    listed = inside("cpio", "--list", "--quiet", "--file", tmp_path / "archive")
    assert listed.split() == ["a", "b", "b/c", "b/c/three", "b/two"]


def test_unpacked_it_is_what_went_in(inside, tmp_path: Path) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.write_bytes(cpio.archive(FILES))
    out.mkdir()
    into = ["--extract", "--quiet", "--no-absolute-filenames", "-D", str(out)]
    subprocess.run(inside.tools.inside(["cpio", *into, "--file", archive]), check=True)
    found = {
        PurePosixPath(path.relative_to(out)): File(path.read_text(), path.stat().st_mode & 0o777)
        for path in out.rglob("*")
        if path.is_file()
    }
    assert found == FILES


def test_an_entry_is_aligned_and_owned_by_root() -> None:
    data = cpio.archive({PurePosixPath("a"): File("x")})
    assert len(data) % 4 == 0
    owner, group, modified = (data[at : at + 8] for at in (22, 30, 46))
    assert {owner, group, modified} == {b"00000000"}
