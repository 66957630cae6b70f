"""The installed wheel can do all that a clone can, outside of the clone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.render.site import render
from appliance.site import load
from vmtests.installed import CLONE, Installed
from vmtests.wanted import Wanted

EXAMPLE = CLONE / "examples/testcase.yaml"


def test_nothing_of_the_clone_is_in_use(installed: Installed) -> None:
    package = installed.environment.run(
        [str(installed.environment.python), "-c", "import appliance; print(appliance.__file__)"],
        capture=True,
    )
    assert str(CLONE) not in package


@pytest.mark.parametrize("name", ["testcase", "mail-firewall", "branch"])
def test_the_wheel_checks_and_renders_as_the_clone_does(
    installed: Installed, tmp_path: Path, name: str
) -> None:
    site = CLONE / f"examples/{name}.yaml"
    installed.run("check", site)
    installed.run("render", site, "-o", tmp_path / "out")
    for node, files in render(load(site)).items():
        for path, file in files.items():
            assert (tmp_path / "out" / node / path).read_text() == file.content


def test_a_bad_file_ends_with_2_and_writes_nothing(installed: Installed, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(EXAMPLE.read_text().replace("virtual:", "virtaul:"))
    for verb in ("render", "build"):
        done = installed.run(verb, bad, "-o", tmp_path / "out", code=2)
        assert f"{bad.name}:13:5: " in done.stderr
        assert "did you mean 'virtual'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_wheel_builds_an_image_with_its_manifest(build: Callable[[Wanted], Path]) -> None:
    built = build(Wanted(EXAMPLE.read_text()))
    manifest = json.loads((built / "manifest.json").read_text())
    assert manifest["site_digest"] == load(EXAMPLE).digest
    assert "keepalived" in manifest["packages"]
    assert (built / "testcase_1.raw").exists()
