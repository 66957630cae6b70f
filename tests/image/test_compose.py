"""What a build puts into the folder: disk, update, manifest; and the same bytes each time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from appliance import image
from appliance.errors import ToolError
from appliance.image import disk
from appliance.image.manifest import sha256
from appliance.node import layer
from appliance.node.payload import DESCRIPTION, SUMS, describe
from appliance.render import layers
from appliance.render.site import render

MIB = 1 << 20
TESTCASE = Path(__file__).parents[2] / "examples/testcase.yaml"


def partition_table(inside, raw: Path) -> list[dict]:
    return json.loads(inside("sfdisk", "--json", raw))["partitiontable"]["partitions"]


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): sha256(path) for path in files}


def uki(built: image.Built) -> Path:
    return built.payload / "testcase_7.efi"


def section(inside, built: image.Built, name: str) -> str:
    text = inside("ukify", "--json=short", f"--section=.{name}:text", "inspect", uki(built))
    return json.loads(text)[f".{name}"]["text"]


def test_the_disk_has_the_boot_partition_and_slot_a(inside, built, vm_base) -> None:
    esp, root, verity = partition_table(inside, built.raw)
    assert [part["name"] for part in (esp, root, verity)] == ["esp", "root_7", "verity_7"]
    assert [part["size"] * 512 for part in (esp, root, verity)] == [
        128 * MIB,
        256 * MIB,
        8 * MIB,
    ]
    ids = disk.root_ids("7", vm_base.facts().root_hash)
    assert (root["uuid"].lower(), verity["uuid"].lower()) == tuple(map(str, ids))


def test_versions_with_the_same_root_have_each_their_own_partitions(vm_base) -> None:
    """Else the one that is half written could be taken for the one that is to boot."""
    root_hash = vm_base.facts().root_hash
    ids = [each for version in "78" for each in disk.root_ids(version, root_hash)]
    assert len(set(ids)) == 4


def test_the_sizes_are_those_that_the_first_boot_declares() -> None:
    folder = Path(__file__).parents[2] / "overlays/common/usr/lib/repart.d"
    for slot in ("10-root-a", "20-root-b"):
        assert f"SizeMaxBytes={disk.ROOT_SLOT // MIB}M" in (folder / f"{slot}.conf").read_text()
    for slot in ("11-root-verity-a", "21-root-verity-b"):
        assert f"SizeMaxBytes={disk.VERITY_SLOT // MIB}M" in (folder / f"{slot}.conf").read_text()
    slots = 2 * (disk.ROOT_SLOT + disk.VERITY_SLOT)
    assert disk.ESP + slots + 256 * MIB + 2 * MIB <= disk.DISK


def test_the_boot_partition_holds_loader_and_kernel(inside, built, tmp_path: Path) -> None:
    listed = inside("mdir", "-/", "-b", "-i", f"{built.raw}@@1M", "::/").split()
    assert sorted(listed) == [
        "::/EFI/",
        "::/EFI/BOOT/",
        "::/EFI/BOOT/BOOTX64.EFI",
        "::/EFI/Linux/",
        "::/EFI/Linux/testcase_7+3.efi",
        "::/EFI/systemd/",
        "::/EFI/systemd/systemd-bootx64.efi",
        "::/loader/",
        "::/loader/loader.conf",
    ]
    booted = tmp_path / "booted.efi"
    inside("mcopy", "-i", f"{built.raw}@@1M", "::/EFI/Linux/testcase_7+3.efi", booted)
    assert sha256(booted) == sha256(uki(built))


def test_firmware_takes_the_boot_partition_for_fat32(inside, built) -> None:
    """The UEFI specification follows Microsoft's: FAT32 is what has at least 65,525 clusters."""
    facts = inside("minfo", "-i", f"{built.raw}@@1M")
    sectors = int(facts.split("big size: ")[1].split()[0])
    a_cluster = int(facts.split("cluster size: ")[1].split()[0])
    assert sectors // a_cluster > 66000


def test_the_root_verifies(inside, built, vm_base, tmp_path: Path) -> None:
    parts = partition_table(inside, built.raw)[1:]
    for name, part in zip(("root", "verity"), parts, strict=True):
        with built.raw.open("rb") as raw:
            raw.seek(part["start"] * 512)
            (tmp_path / name).write_bytes(raw.read(part["size"] * 512))
    verify = ["veritysetup", "verify", tmp_path / "root", tmp_path / "verity"]
    inside(*verify, vm_base.facts().root_hash)
    data = bytearray((tmp_path / "root").read_bytes())
    data[1000000] ^= 1
    (tmp_path / "root").write_bytes(data)
    with pytest.raises(ToolError):
        inside(*verify, vm_base.facts().root_hash)


def test_the_kernel_knows_the_root_and_the_version(inside, built, vm_base) -> None:
    root_hash = vm_base.facts().root_hash
    arguments = section(inside, built, "cmdline").split()
    root, verity = disk.root_ids("7", root_hash)
    assert f"roothash={root_hash}" in arguments
    assert f"systemd.verity_root_data=PARTUUID={root}" in arguments
    assert f"systemd.verity_root_hash=PARTUUID={verity}" in arguments
    release = tomllib.loads("\n".join(_quoted(section(inside, built, "osrel"))))
    assert (release["IMAGE_ID"], release["IMAGE_VERSION"]) == ("testcase", "7")


def test_each_nodes_files_are_named_by_their_digests(built, plan) -> None:
    kernel = uki(built).read_bytes()
    for node, each in layers.manifests(plan, render(plan)).items():
        assert f"appliance-site/{node}/{layer.PATH}".encode() in kernel
        assert kernel.count(each.text.encode()) == 1


def _quoted(release: str) -> list[str]:
    pairs = [line.split("=", 1) for line in release.splitlines() if line]
    return [f'{name}="{value.strip(chr(34))}"' for name, value in pairs]


def test_the_manifest_tells_the_truth(built, plan) -> None:
    told = json.loads(built.manifest.read_text())
    here = hashes(built.manifest.parent)
    here.pop("manifest.json")
    assert {name: file["sha256"] for name, file in told["files"].items()} == here
    assert told["files"]["testcase_7.raw"]["size"] == built.raw.stat().st_size
    assert (told["site"], told["site_digest"]) == ("testcase", plan.digest)
    assert (told["version"], told["hardware"], told["nodes"]) == ("7", "vm", ["fw1", "fw2"])
    assert told["packages"].keys() >= {"keepalived", "conntrackd", "nftables", "systemd"}
    assert told["files"]["testcase_7.raw.zst"]["size"] <= 100_000_000
    assert built.sha256 == here["testcase_7.raw"]


def test_the_update_has_checksums_and_the_partitions(built, vm_base) -> None:
    sums = "".join(
        f"{sha256(path)}  {path.name}\n"
        for path in sorted(built.payload.iterdir())
        if path.name != "SHA256SUMS"
    )
    assert (built.payload / "SHA256SUMS").read_text() == sums
    for part in (vm_base.root, vm_base.verity):
        (sent,) = built.payload.glob(f"testcase_7.{part.stem}.*.raw")
        assert sent.read_bytes() == part.read_bytes()


def test_the_update_says_what_it_is(built, plan, vm_base) -> None:
    told = describe((built.payload / DESCRIPTION).read_text())
    assert (told.site, told.version, told.hardware) == ("testcase", "7", "vm")
    assert told.digest == plan.digest
    assert told.virtual == ["192.168.0.100", "192.168.1.100"]
    assert (told.root, told.verity) == (
        vm_base.root.stat().st_size,
        vm_base.verity.stat().st_size,
    )
    assert told.files == {
        path.name: path.stat().st_size
        for path in built.payload.iterdir()
        if path.name not in (DESCRIPTION, SUMS)
    }
    assert told.kernel in told.files


def test_unpacked_the_compressed_disk_is_the_disk(inside, built, tmp_path: Path) -> None:
    inside("zstd", "--quiet", "--decompress", built.compressed, "-o", tmp_path / "raw")
    assert sha256(tmp_path / "raw") == built.sha256


def test_a_second_build_gives_the_same_bytes(built, plan, tmp_path: Path) -> None:
    image.build(plan, render(plan), tmp_path / "again", version="7")
    assert hashes(tmp_path / "again") == hashes(built.raw.parent)


def test_another_version_is_another_disk(built, plan, tmp_path: Path) -> None:
    again = image.build(plan, render(plan), tmp_path / "again", version="8")
    assert again.sha256 != built.sha256
    assert again.raw.name == "testcase_8.raw"


@pytest.mark.parametrize("version", ["", "1_2", "1+3", "../1", "-1", "a b", "1" * 25])
def test_what_cannot_be_a_version_is_refused(plan, tmp_path: Path, version: str) -> None:
    with pytest.raises(ToolError, match="is no version"):
        image.build(plan, render(plan), tmp_path / "out", version=version)
    assert not (tmp_path / "out").exists()


# Builds over the folder and dies, without a chance to tidy up, when the n-th program has run; of a
# disk that is compressed, each piece counts; a disk in another format is never finished.
DIE = """
import importlib, os, signal, sys
from pathlib import Path
from appliance import image
from appliance.render.site import render
from appliance.site import load

plan = load(Path(sys.argv[1]))
compose, disk, formats, sparse = (
    importlib.import_module(f"appliance.image.{name}")
    for name in ("compose", "disk", "formats", "sparse")
)
calls = 0
run, chunks = compose.run, sparse.chunks
def count():
    global calls
    calls += 1
    if calls == int(sys.argv[3]):
        die()
def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)
def dying(*args, **kwargs):
    count()
    return run(*args, **kwargs)
def pieces(path):
    for piece in chunks(path):
        count()
        yield piece
compose.run = disk.run = dying
sparse.chunks = pieces
formats.run = die
image.build(plan, render(plan), Path(sys.argv[2]), version="9", formats=sys.argv[4:])
"""


@pytest.mark.parametrize(
    ("call", "formats"),
    [(1, []), (4, []), (12, []), (-1, ["qcow2"])],
    ids=["kernel", "disk", "compressing", "converting"],
)
def test_a_killed_build_leaves_the_old_one(
    vm_base, tmp_path: Path, call: int, formats: list[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "testcase_9.raw").write_text("the old one")
    argv = [sys.executable, "-c", DIE, str(TESTCASE), str(out), str(call), *formats]
    done = subprocess.run(argv, check=False)
    assert done.returncode == -signal.SIGKILL
    assert hashes(out).keys() == {"testcase_9.raw"}
    assert (out / "testcase_9.raw").read_text() == "the old one"


def test_what_a_killed_build_left_is_gone_after_the_next(built, plan, tmp_path: Path) -> None:
    (tmp_path / ".out.left").mkdir()
    image.build(plan, render(plan), tmp_path / "out", version="7")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
