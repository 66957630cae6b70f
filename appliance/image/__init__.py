"""Images: a base that mkosi builds once, and a site put on it in seconds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from appliance import store, tools
from appliance.image.base import Hardware, base
from appliance.image.compose import Job, check_version, compose
from appliance.image.formats import Format
from appliance.image.keys import Keys
from appliance.image.manifest import NAME
from appliance.image.peers import Peers, peers_image
from appliance.image.pins import Pins
from appliance.plan.model import Plan
from appliance.progress import step
from appliance.render.tree import FileTree
from appliance.verify import verify

__all__ = ["Built", "Format", "Hardware", "Keys", "Peers", "Pins", "build", "peers_image"]


@dataclass(frozen=True, slots=True)
class Built:
    """The files of one build, all of them in one folder; `sha256` is that of `raw`."""

    raw: Path
    compressed: Path
    payload: Path
    manifest: Path
    sha256: str


def build(
    plan: Plan,
    tree: FileTree,
    out: Path,
    hardware: Hardware = Hardware.VM,
    version: str = "1",
    *,
    keys: Keys | None = None,
    formats: Collection[Format] = (),
    pins: Pins | None = None,
    fresh: bool = False,
) -> Built:
    """Make the image of a site in the folder `out`; `fresh` builds the base anew, cached or not.
    With `keys` all of it is signed, and its nodes take updates that are signed with the same.

    With `pins` it has the packages of an earlier image. Besides the raw disk it is written in
    `formats`; what there was in others goes, as it would not be this image.
    """
    check_version(version)
    tree_of_tools = tools.ensure()
    with step("Asking the programs about their files"):
        verify(tree, tree_of_tools)
    made = base(hardware, tree_of_tools, plan.firmware, pins=pins, fresh=fresh)
    job = Job(plan, tree, made, hardware, version, keys, frozenset(formats))
    out = out.absolute()
    with step(f"Composing {job.name}"), store.workspace(out) as work:
        digest = compose(job, work / "new", tree_of_tools)
        _move(work / "new", out, work / "old")
        for other in set(Format) - job.formats - {Format.RAW}:
            (out / f"{job.name}.{other}").unlink(missing_ok=True)
    raw = out / f"{job.name}.raw"
    return Built(
        raw=raw,
        compressed=out / f"{raw.name}.zst",
        payload=out / f"{job.name}.update",
        manifest=out / NAME,
        sha256=digest,
    )


def _move(new: Path, out: Path, old: Path) -> None:
    """Put each thing from `new` into `out`; a folder that had its name goes to `old` first."""
    out.mkdir(exist_ok=True)
    old.mkdir()
    for thing in sorted(new.iterdir()):
        if (out / thing.name).is_dir():
            (out / thing.name).rename(old / thing.name)
        thing.replace(out / thing.name)
