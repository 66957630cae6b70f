"""An image on a disk: all of it, compared, and with the name of its node on the boot partition."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from appliance import image
from appliance.cli import app
from appliance.errors import ToolError
from appliance.image import disk, medium
from appliance.image.manifest import sha256
from appliance.node import install as on_node
from appliance.node import orders
from appliance.node.disks import Disk
from appliance.node.orders import Order

from .conftest import CLONE
from .test_compose import partition_table

MIB = 1 << 20


def on_boot_partition(inside, raw: Path, path: object) -> str:
    return inside("mtype", "-i", f"{raw}@@1M", f"::/{path}")


def install(built: image.Built, to: Path, *options: str) -> str:
    """The command's error, empty when there was none."""
    done = CliRunner().invoke(app, ["install", str(built.raw), "--to", str(to), *options])
    return str(done.exception or "")


def test_it_is_the_image_with_the_name_of_its_node(built, inside, tmp_path: Path) -> None:
    to = tmp_path / "fw2.raw"
    assert install(built, to, "--node", "fw2") == ""
    assert on_boot_partition(inside, to, orders.NODE) == "fw2\n"
    behind = MIB + disk.ESP
    with to.open("rb") as one, built.raw.open("rb") as other:
        assert one.read(MIB) == other.read(MIB)
        one.seek(behind)
        other.seek(behind)
        assert one.read() == other.read()
    inside("fsck.vfat", "-n", cut(to, MIB, disk.ESP, tmp_path / "esp"))
    listed = inside("mdir", "-/", "-b", "-i", f"{to}@@1M", "::/").split()
    assert "::/EFI/Linux/testcase_7+3.efi" in listed


def test_the_same_call_writes_the_same_bytes(built, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for to in (one, other):
        assert install(built, to, "--node", "fw1") == ""
    assert sha256(one) == sha256(other) != built.sha256


def test_a_medium_has_the_order_and_is_no_node_itself(built, inside, tmp_path: Path) -> None:
    to = tmp_path / "usb"
    assert install(built, to, "--node", "fw1", "--medium-for", "/dev/sda") == ""
    (tmp_path / "order").write_text(on_boot_partition(inside, to, orders.INSTALL))
    assert orders.read(tmp_path / "order") == Order("/dev/sda", "fw1")
    with pytest.raises(ToolError):
        on_boot_partition(inside, to, orders.NODE)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "which node will it be?\n    hint: --node, one of fw1, fw2"),
        (["--node", "fw3"], "no node 'fw3'\n    hint: --node, one of fw1, fw2"),
    ],
)
def test_the_node_must_be_one_of_the_site(built, tmp_path: Path, options, why: str) -> None:
    assert install(built, tmp_path / "disk", *options) == why
    assert not (tmp_path / "disk").exists()


def test_a_site_of_one_node_needs_no_name(tmp_path: Path) -> None:
    alone = medium.Image(tmp_path, "", ("router",))
    assert alone.node(None) is None
    assert medium.for_router(alone.node(None)) == {}


def test_a_file_that_is_there_is_not_overwritten(built, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("of value")
    assert "precious is no disk" in install(built, tmp_path / "precious", "--node", "fw1", "--yes")
    assert (tmp_path / "precious").read_text() == "of value"


def test_a_disk_that_is_not_there_is_no_new_file(built) -> None:
    assert "/dev/nosuchdisk: No such file" in install(
        built, Path("/dev/nosuchdisk"), "--node", "fw1"
    )
    assert not Path("/dev/nosuchdisk").exists()


def test_without_a_yes_nothing_is_written(built, tmp_path: Path, monkeypatch) -> None:
    """To a disk; the new file stands for one."""
    monkeypatch.setattr(medium, "fit", lambda path: Disk("sda", 4 << 30, "Fast Disk"))
    said = install(built, tmp_path / "sda", "--node", "fw1")
    assert said == "sda (Fast Disk, 4.3 GB) will lose all that is on it\n    hint: say --yes"
    assert not (tmp_path / "sda").exists()


def test_an_image_that_was_altered_is_refused(built, tmp_path: Path) -> None:
    shutil.copy(built.manifest, tmp_path)
    raw = tmp_path / built.raw.name
    raw.write_bytes(b"something else")
    with pytest.raises(ToolError, match="is not what its manifest says"):
        medium.read(raw)


@pytest.mark.parametrize("text", [None, "{}", json.dumps({"nodes": ["a"], "files": {}})])
def test_what_is_no_image_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ToolError, match="no image with a manifest beside it"):
        medium.read(tmp_path / "site_1.raw")


def test_a_disk_that_forgets_is_found_out(built, tools_tree, tmp_path: Path, monkeypatch) -> None:
    """What is read afterwards has one byte of the last MiB flipped."""
    whole = medium._copy

    def forgetful(source: Path, target) -> str:
        digest = whole(source, target)
        target.seek(-1000, 2)
        target.write(b"x")
        return digest

    monkeypatch.setattr(medium, "_copy", forgetful)
    to = tmp_path / "disk"
    with pytest.raises(ToolError, match="does not hold what was written to it"):
        medium.write(medium.read(built.raw), to, {}, tools_tree)
    assert not to.exists()


def test_the_initrd_and_the_service_look_where_it_is_written() -> None:
    script = (CLONE / "overlays/initrd/usr/lib/appliance/site").read_text()
    assert {orders.NODE.parent, orders.INSTALL.parent} == {orders.FOLDER}
    assert f"$handed/{orders.NODE.name}" in script
    assert f"$handed/{orders.INSTALL.name}" in script
    assert f"/sysroot{orders.ORDER}" in script
    unit = CLONE / "overlays/node/usr/lib/systemd/system/appliance-install.service"
    assert f"ConditionPathExists={orders.ORDER}\n" in unit.read_text()
    assert f"--order {orders.ORDER}\n" in unit.read_text()


def test_what_is_copied_on_a_node_fits_a_disk_as_large_as_the_image() -> None:
    assert on_node._LEAST == disk.DISK
    parts = disk.partitions("7", "0" * 64)
    named = zip(on_node.PARTS, parts, strict=True)
    assert all(partition.label.startswith(part.name) for part, partition in named)


def test_what_a_node_copies_is_slot_a_as_the_image_has_it(
    built, inside, vm_base, tmp_path: Path
) -> None:
    """With files for partitions and disk. The new disk is larger, and used before."""
    (tmp_path / "definitions").mkdir()
    parts = disk.partitions("7", vm_base.facts().root_hash)
    for number, (part, own) in enumerate(zip(on_node.PARTS, parts, strict=True)):
        source = cut(built.raw, own.start, own.size, tmp_path / f"source{number}")
        text = on_node.definition(part, source, own.label, own.size, str(own.id))
        (tmp_path / f"definitions/{number}.conf").write_text(text)
    to = tmp_path / "new"
    shutil.copy(built.raw, to)
    with to.open("r+b") as file:
        file.truncate(2 * disk.DISK)
    inside(*on_node.REPART, f"--definitions={tmp_path}/definitions", to)
    told = [("name", "type", "size", "start", "attrs"), ("uuid",)]
    here, there = (partition_table(inside, raw) for raw in (to, built.raw))
    for fields, first in zip(told, (0, 1), strict=True):
        for one, other in zip(here[first:], there[first:], strict=True):
            assert [one.get(f) for f in fields] == [other.get(f) for f in fields]
    for number, own in enumerate(parts):
        copy = cut(to, own.start, own.size, tmp_path / f"copy{number}")
        assert sha256(copy) == sha256(tmp_path / f"source{number}")


def cut(raw: Path, start: int, size: int, into: Path) -> Path:
    with raw.open("rb") as file:
        file.seek(start)
        into.write_bytes(file.read(size))
    return into


def test_a_copied_boot_partition_is_that_of_the_new_node(tmp_path: Path) -> None:
    for name in ("EFI/Linux/a_site_1+2-1.efi", "EFI/Linux/a_site_2.efi", orders.INSTALL):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    on_node.address(tmp_path, Order("/dev/sda", "fw2"), "1")
    there = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert there == {f"EFI/Linux/a_site_1+{orders.TRIES}.efi", str(orders.NODE)}
    assert (tmp_path / orders.NODE).read_text() == "fw2\n"
