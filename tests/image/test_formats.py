"""The disk in other formats: the same disk, the same bytes, and nothing left of another build."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from appliance import image
from appliance.image import Format
from appliance.image.formats import convert
from appliance.image.manifest import sha256
from appliance.image.vhdx import _crc32c as crc32c
from appliance.render.site import render

MIB = 1 << 20
OTHERS = sorted(set(Format) - {Format.RAW})


@pytest.fixture(scope="module")
def everything(plan, tmp_path_factory: pytest.TempPathFactory) -> image.Built:
    out = tmp_path_factory.mktemp("formats")
    return image.build(plan, render(plan), out, version="7", formats=Format)


@pytest.mark.parametrize("wanted", OTHERS)
def test_it_holds_the_raw_disk(inside, everything, wanted: Format) -> None:
    other = everything.raw.with_suffix(f".{wanted}")
    inside("qemu-img", "compare", "-f", "raw", "-F", wanted, everything.raw, other)
    inside("qemu-img", "info", "-f", wanted, other)
    if wanted is not Format.VMDK:  # for compressed ones qemu-img has no check
        inside("qemu-img", "check", "-f", wanted, other)
    told = json.loads(everything.manifest.read_text())["files"][other.name]
    assert told == {"size": other.stat().st_size, "sha256": sha256(other)}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A disk with something on it, and mostly holes."""
    raw = tmp_path / "one/site_1.raw"
    raw.parent.mkdir()
    with raw.open("wb") as file:
        file.truncate(64 * MIB)
        file.seek(40 * MIB)
        file.write(os.urandom(MIB))
    return raw


@pytest.mark.parametrize("wanted", OTHERS)
def test_the_same_disk_gives_the_same_bytes(tools_tree, small: Path, wanted: Format) -> None:
    again = small.parent.with_name("other") / small.name
    again.parent.mkdir()
    again.write_bytes(small.read_bytes())
    one, other = (convert(raw, wanted, sha256(raw), tools_tree) for raw in (small, again))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("wanted", [Format.VMDK, Format.VHDX])
def test_another_disk_has_another_identity(tools_tree, small: Path, wanted: Format) -> None:
    one = convert(small, wanted, "1" * 64, tools_tree).read_bytes()
    assert convert(small, wanted, "2" * 64, tools_tree).read_bytes() != one


def test_a_vhdx_whose_checksum_is_wrong_would_be_found_out(tools_tree, small: Path, inside) -> None:
    """That qemu-img looks: for the checks above say nothing without it."""
    made = convert(small, Format.VHDX, sha256(small), tools_tree)
    with made.open("r+b") as file:
        for header in (64 << 10, 128 << 10):
            file.seek(header + 100)
            file.write(b"x")
    with pytest.raises(Exception, match="No valid VHDX header found"):
        inside("qemu-img", "info", "-f", "vhdx", made)


def test_the_checksum_is_that_of_the_standard() -> None:
    """RFC 3720, appendix B.4."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_a_format_that_is_not_wanted_any_more_goes(plan, tmp_path: Path) -> None:
    for leftover in ("testcase_7.vmdk", "testcase_6.vmdk"):
        (tmp_path / leftover).write_text("of an older build")
    image.build(plan, render(plan), tmp_path, version="7", formats=[Format.QCOW2])
    assert {path.name for path in tmp_path.glob("*.[qv]*")} == {
        "testcase_7.qcow2",
        "testcase_6.vmdk",
    }
