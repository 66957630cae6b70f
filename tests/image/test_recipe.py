"""What makes an image is known by its bytes, and mkosi understands all of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance import resources
from appliance.errors import ToolError
from appliance.image.base import Hardware, ingredients
from appliance.image.peers import INGREDIENTS as PEERS
from appliance.image.recipe import recipe
from appliance.tools import ToolsTree

from .conftest import CLONE

VM = ingredients(Hardware.VM)


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all ingredients, which the recipe then uses."""
    for name in ("mkosi.conf.d", "overlays", "appliance/node"):
        shutil.copytree(CLONE / name, tmp_path / name)
    shutil.copy(CLONE / "appliance/__init__.py", tmp_path / "appliance")
    monkeypatch.setattr(resources, "PACKAGE", tmp_path / "appliance")
    monkeypatch.setenv("APPLIANCE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def key(tools: ToolsTree, what=VM) -> str:
    with recipe(tools, what) as gathered:
        return gathered.key


def append(name: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / name).write_text((root / name).read_text() + "\n# more\n")

    return change


@pytest.mark.parametrize(
    "name",
    [
        "mkosi.conf.d/10-debian.conf",
        "mkosi.conf.d/20-appliance/mkosi.finalize",
        "mkosi.conf.d/30-kernel-vm.conf",
        "overlays/common/usr/lib/repart.d/30-state.conf",
        "overlays/initrd/usr/lib/appliance/site",
        "appliance/node/health.py",
        "appliance/__init__.py",
    ],
)
def test_a_change_of_what_goes_in_is_another_image(copied, tools_tree, name: str) -> None:
    before = key(tools_tree)
    append(name)(copied)
    assert key(tools_tree) != before


@pytest.mark.parametrize(
    "name", ["mkosi.conf.d/31-kernel-metal.conf", "mkosi.conf.d/50-peers/mkosi.conf"]
)
def test_a_change_of_another_image_is_none(copied, tools_tree, name: str) -> None:
    before = key(tools_tree)
    append(name)(copied)
    assert key(tools_tree) == before


def test_other_tools_are_another_image(copied, tools_tree) -> None:
    other = copied / "tools-of-another-mirror"
    other.symlink_to(tools_tree.path)
    assert key(tools_tree) != key(ToolsTree(other))


def test_place_umask_and_caches_do_not_matter(copied, tools_tree) -> None:
    before = key(tools_tree)
    for path in copied.rglob("*"):
        if path.is_file():
            path.chmod(path.stat().st_mode | 0o066)
    (copied / "appliance/node/__pycache__").mkdir(exist_ok=True)
    (copied / "appliance/node/__pycache__/left.pyc").touch()
    assert key(tools_tree) == before


@pytest.mark.parametrize(
    ("what", "profiles"),
    [
        (VM, ["appliance", "vm"]),
        (ingredients(Hardware.METAL), ["appliance", "metal"]),
        (VM, ["initrd"]),
        (PEERS, ["peers", "vm"]),
    ],
    ids=["vm", "metal", "initrd", "peers"],
)
def test_mkosi_understands_every_setting(tools_tree, what, profiles: list[str]) -> None:
    with recipe(tools_tree, what) as gathered:
        (image,) = json.loads(gathered.summary(profiles))["Images"]
    assert image["Release"] == "trixie"
    assert image["Packages"]


@pytest.mark.parametrize(
    "line", ["[Content]\nPakages=bash", "[Output]\nPackages=bash"], ids=["unknown", "misplaced"]
)
def test_a_setting_that_mkosi_does_not_know_is_an_error(copied, tools_tree, line: str) -> None:
    (copied / "mkosi.conf.d/10-debian.conf").write_text(line)
    with (
        recipe(tools_tree, VM) as gathered,
        pytest.raises(ToolError, match=r"Unknown setting|should be configured"),
    ):
        gathered.summary(["initrd"])


@pytest.mark.parametrize("hardware", Hardware)
def test_real_machines_get_the_firmware_of_the_site(tools_tree, hardware: Hardware) -> None:
    """With the part of Debian's archive that it lies in; virtual ones are what they are without."""
    what = ingredients(hardware, ("firmware-bnx2x",))
    with recipe(tools_tree, what) as gathered:
        (image,) = json.loads(gathered.summary(["appliance", hardware]))["Images"]
        sources = (gathered.apt / "sources.list.d/mkosi.sources").read_text()
    real = hardware is Hardware.METAL
    assert ("firmware-bnx2x" in image["Packages"]) is real
    assert ("Components: main non-free-firmware\n" in sources) is real
    assert (key(tools_tree, what) != key(tools_tree, ingredients(hardware))) is real


def test_no_two_overlays_of_an_image_have_the_same_file() -> None:
    overlays = [CLONE / "overlays" / name for name in ("common", "node")]
    first, second = (
        {path.relative_to(root) for path in root.rglob("*") if path.is_file()} for root in overlays
    )
    assert not first & second


def test_nothing_that_travels_in_the_wheel_is_a_link() -> None:
    shipped = [*(CLONE / "overlays").rglob("*"), *(CLONE / "mkosi.conf.d").rglob("*")]
    assert not [path for path in shipped if path.is_symlink()]
