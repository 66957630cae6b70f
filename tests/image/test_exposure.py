"""How exposed the router's units are, by systemd's own measure: docs/image.md has the bounds."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import CLONE

UNITS = Path("usr/lib/systemd/system")
# Debian's units that the image changes or replaces, and what they run has no other sandbox.
DEBIANS = {"keepalived", "conntrackd", "nftables", "rsyslog", "ssh"}
GOOD = 2.0


@dataclass(frozen=True)
class Bound:
    """The row of a unit in the table."""

    most: float
    why: str


def bounds() -> dict[str, Bound]:
    rows = re.findall(
        r"^\| `([\w-]+)\.service` \| (\d\.\d) \|(.*?)\|$",
        (CLONE / "docs/image.md").read_text(),
        re.MULTILINE,
    )
    return {unit: Bound(float(most), why.strip()) for unit, most, why in rows}


BOUNDS = bounds()


@pytest.fixture(scope="module")
def root(tools_tree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian's units with the overlays over them, as in the image."""
    root = tmp_path_factory.mktemp("root")
    shutil.copytree(tools_tree.path / UNITS, root / UNITS, symlinks=True)
    for overlay in ("initrd", "common", "node"):
        shutil.copytree(CLONE / "overlays" / overlay / UNITS, root / UNITS, dirs_exist_ok=True)
    return root


def test_the_table_has_every_unit_of_the_projects_own() -> None:
    own = {path.stem for path in (CLONE / "overlays").rglob("appliance-*.service")}
    assert own
    assert own | DEBIANS == BOUNDS.keys()


def test_whatever_is_more_exposed_than_it_should_be_has_a_reason() -> None:
    for unit, bound in BOUNDS.items():
        assert bool(bound.why) == (bound.most > GOOD), unit


@pytest.mark.parametrize("unit", BOUNDS)
def test_it_is_no_more_exposed_than_the_table_says(inside, root: Path, unit: str) -> None:
    asked = ["systemd-analyze", "security", "--offline=true", f"--root={root}", "--no-pager"]
    said = inside(*asked, f"{unit}.service")
    found = re.search(r"exposure level for .*: (\d+\.\d)", said)
    assert found, said
    assert float(found[1]) <= BOUNDS[unit].most, said
