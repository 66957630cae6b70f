"""The packages of an earlier image, taken again by a base that is made for them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance import tools
from appliance.image.base import Hardware, ingredients
from appliance.image.pins import Mirror
from appliance.image.recipe import recipe
from vmtests.installed import Installed
from vmtests.wanted import Wanted
from vmtests.ways import USUAL

pytestmark = pytest.mark.long

SITE = Wanted(USUAL.replace("site: testcase", "site: pinned"))
RAW = "pinned_1.raw"

Again = Callable[[Path], Path]


@pytest.fixture
def built(build: Callable[[Wanted], Path]) -> Path:
    return build(SITE)


@pytest.fixture
def again(installed: Installed, tmp_path: Path) -> Again:
    """Build the site anew, with the packages of a manifest."""

    def again(manifest: Path) -> Path:
        how = ["--packages-from", manifest, "--no-cache"]
        installed.run("build", f"{SITE.name}.yaml", "-o", tmp_path / "again", *how)
        return tmp_path / "again"

    return again


def test_the_same_packages_give_the_same_bytes(built: Path, again: Again) -> None:
    made = again(built / "manifest.json")
    for name in (RAW, "manifest.json"):
        assert (made / name).read_bytes() == (built / name).read_bytes()


def test_older_versions_are_taken(built: Path, again: Again, tmp_path: Path) -> None:
    """Of something that Debian has updated since its release."""
    manifest = json.loads((built / "manifest.json").read_text())
    manifest["packages"] |= before_an_update(manifest["packages"], tmp_path / "work")
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(manifest))
    made = again(file)
    assert json.loads((made / "manifest.json").read_text())["packages"] == manifest["packages"]
    assert (made / RAW).read_bytes() != (built / RAW).read_bytes()


def before_an_update(packages: dict[str, str], work: Path) -> dict[str, str]:
    """Packages of one source, which want to be of one version, in an older one that is to be had.

    Not the kernel's: their names have the version in them.
    """
    work.mkdir()
    kit = tools.ensure()
    with recipe(kit, ingredients(Hardware.VM)) as gathered:
        there = Mirror(gathered.apt, work, kit).versions(packages)
    older: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for name, versions in there.items():
        for other in versions - {packages[name]}:
            older[packages[name], other][name] = other
    return next(found for found in older.values() if not any("linux" in name for name in found))
