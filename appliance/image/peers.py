"""The image of the lab's other machine, which is booted as kernel, initrd and root disk."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from appliance import resources, store, tools
from appliance.image.recipe import Ingredients, Recipe, recipe
from appliance.progress import step

INGREDIENTS = Ingredients(
    drop_ins=("10-debian.conf", "30-kernel-vm.conf", "50-peers"), overlays=("peers",)
)


@dataclass(frozen=True, slots=True)
class Peers:
    """What to boot; the root is a squashfs that the initrd expects as the first virtio disk."""

    kernel: Path
    initrd: Path
    root: Path


def peers_image(*, fresh: bool = False) -> Peers:
    """The image, from the cache or made now (a minute); `fresh` makes it in any case."""
    with recipe(tools.ensure(), INGREDIENTS) as gathered:
        path = resources.cache() / f"peers-{gathered.key}"
        store.folder(path, partial(_make, gathered=gathered), fresh=fresh)
    return Peers(path / "vmlinuz", path / "initrd", path / "root.raw")


def _make(work: Path, gathered: Recipe) -> None:
    built = work / "mkosi"
    built.mkdir()
    with step("Building the image of the lab's peers"):
        gathered.mkosi(built, ["peers", "vm"])
    for name, part in {
        "vmlinuz": "vmlinuz",
        "initrd": "initrd",
        "peers.root.raw": "root.raw",
    }.items():
        (built / name).rename(work / part)
    shutil.rmtree(built)
