"""An earlier image's packages are taken again, or it is said which of them cannot be."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from appliance.cli import app
from appliance.errors import ToolError
from appliance.image.base import Hardware, base, ingredients
from appliance.image.manifest import sha256
from appliance.image.pins import Mirror, Pins, read
from appliance.image.recipe import recipe

from .test_compose import TESTCASE

OLD, NEW = "1:1.0-1+deb13u1", "1:1.0-2"


@pytest.fixture
def mirror(inside, tools_tree, tmp_path: Path) -> Mirror:
    """An archive of two packages, `router` in an older version too; and apt's way to it."""
    archive, etc, work = (tmp_path / name for name in ("archive", "apt", "work"))
    for folder in (archive, etc / "sources.list.d", etc / "preferences.d", work):
        folder.mkdir(parents=True)
    listed = [package(inside, archive, *each) for each in (("router", OLD), ("router", NEW))]
    listed.append(package(inside, archive, "cable", "3"))
    (archive / "Packages").write_text("\n".join(listed))
    source = f"Types: deb\nURIs: file:{archive}\nSuites: ./\nTrusted: yes\n"
    (etc / "sources.list.d/test.sources").write_text(source)
    return Mirror(etc, work, tools_tree)


def package(inside, archive: Path, name: str, version: str) -> str:
    """Make an empty package in the archive; its paragraph of the index."""
    control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: N <n@n.test>\n"
    control += "Description: for a test\n"
    folder = archive / f"{name}-{version}"
    (folder / "DEBIAN").mkdir(parents=True)
    (folder / "DEBIAN/control").write_text(control)
    file = archive / f"{name}_{version.replace(':', '%3a')}_all.deb"
    inside("dpkg-deb", "--root-owner-group", "--build", folder, file)
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return f"{control}Filename: ./{file.name}\nSize: {len(data)}\nSHA256: {digest}\n"


def taken(mirror: Mirror) -> str:
    """What apt would install."""
    mirror.apt("apt-get", "update")
    said = mirror.apt("apt-get", "install", "--simulate", "router")
    (line,) = [line for line in said.splitlines() if line.startswith("Inst router ")]
    return line.split("(")[1].split()[0]


def pins(**packages: str) -> Pins:
    return Pins("vm", packages)


def test_apt_takes_the_pinned_version_and_else_the_latest(mirror: Mirror) -> None:
    assert taken(mirror) == NEW
    (mirror.etc / "preferences.d/appliance").write_text(pins(router=OLD, cable="3").preferences())
    assert taken(mirror) == OLD


def test_each_version_that_the_mirror_no_longer_has_is_named(mirror: Mirror) -> None:
    mirror.check(pins(router=OLD, cable="3"))
    with pytest.raises(ToolError) as told:
        mirror.check(pins(router="1:0.9-1", cable="2", switch="4"))
    assert told.value.what.splitlines() == [
        "the mirror no longer has:",
        "  cable 2 (it has 3)",
        f"  router 1:0.9-1 (it has {OLD}, {NEW})",
        "  switch 4 (it has none)",
    ]
    assert told.value.hint
    assert "snapshot archive" in told.value.hint


def test_what_was_taken_is_looked_at_too() -> None:
    asked = pins(router=OLD, cable="3")
    asked.check_taken({"router": OLD})
    with pytest.raises(ToolError) as told:
        asked.check_taken({"router": NEW, "switch": "4"})
    assert told.value.what.splitlines() == [
        "other packages than in the manifest:",
        f"  router {NEW}, not {OLD}",
        "  switch 4, not in the manifest",
    ]


def test_pins_are_another_image_and_mkosi_gets_them(tools_tree) -> None:
    what = ingredients(Hardware.VM)
    with recipe(tools_tree, what) as usual, recipe(tools_tree, what, pins(router=OLD)) as pinned:
        assert usual.key != pinned.key
        assert (pinned.apt / "preferences.d/appliance").read_text() == (
            f"Package: router\nPin: version {OLD}\nPin-Priority: 1001\n"
        )
        assert not (usual.apt / "preferences.d").exists()


def test_a_base_that_has_just_these_packages_is_taken_from_the_cache(vm_base, tools_tree) -> None:
    same = Pins("vm", vm_base.facts().packages)
    assert base(Hardware.VM, tools_tree, pins=same) == vm_base


def test_the_command_takes_formats_and_packages(built, tmp_path: Path) -> None:
    how = ["--format", "qcow2", "--format", "vhdx", "--packages-from", str(built.manifest)]
    argv = ["build", str(TESTCASE), "-o", str(tmp_path), "--version", "7", *how]
    assert CliRunner().invoke(app, argv).exit_code == 0
    assert {path.suffix for path in tmp_path.iterdir()} >= {".raw", ".qcow2", ".vhdx"}
    assert sha256(tmp_path / built.raw.name) == built.sha256


def test_packages_of_other_hardware_are_refused(tools_tree) -> None:
    with pytest.raises(ToolError, match="for --hardware metal"):
        base(Hardware.VM, tools_tree, pins=Pins("metal", {}))


@pytest.mark.parametrize("text", ["", "{}", '{"hardware": "vm", "packages": {"a": 1}}'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "manifest.json"
    file.write_text(text)
    with pytest.raises(ToolError, match="is no manifest of an image"):
        read(file)
    with pytest.raises(ToolError, match="No such file"):
        read(tmp_path / "missing.json")
