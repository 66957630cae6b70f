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
from appliance.run import run
from vmtests.figures import Figures
from vmtests.installed import Installed
from vmtests.wanted import Wanted
from vmtests.ways import USUAL

pytestmark = pytest.mark.long

SITE = Wanted(USUAL.replace("site: testcase", "site: pinned"))
RAW, UPDATE = "pinned_1.raw", "pinned_1.update"

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


@pytest.mark.figures(beside=True)
def test_older_versions_are_taken(
    built: Path, again: Again, figures: Figures, tmp_path: Path
) -> None:
    """Of something that Debian has updated since its release; what a delta from there to here would
    save.
    """
    manifest = json.loads((built / "manifest.json").read_text())
    manifest["packages"] |= before_an_update(manifest["packages"], tmp_path / "work")
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(manifest))
    made = again(file)
    assert json.loads((made / "manifest.json").read_text())["packages"] == manifest["packages"]
    assert (made / RAW).read_bytes() != (built / RAW).read_bytes()
    whole, delta = sizes(made / UPDATE, built / UPDATE, tmp_path / "delta")
    what = "delta of an update to another base, one source's packages newer, in the whole of it"
    assert figures.add(what, "", delta / whole, goal="").worst < 1


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


def sizes(old: Path, new: Path, delta: Path) -> tuple[int, int]:
    """Bytes of what is written to a disk by an update, and of what makes it from another one
    (zstd(1), --patch-from).
    """
    whole, differ, kit = 0, 0, tools.ensure()
    for kind in ("*.root.*", "*.verity.*", "*.efi"):
        (before,), (after,) = old.glob(kind), new.glob(kind)
        run(kit.inside(["zstd", "-q", "-f", "--patch-from", before, after, "-o", delta]))
        whole += after.stat().st_size
        differ += delta.stat().st_size
    return whole, differ
